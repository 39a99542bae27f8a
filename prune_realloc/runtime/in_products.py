"""Fused attention as the products that it is made of, for an exporter or a counter that does not know PyTorch's one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from prune_realloc.runtime.attention import products, scaled_dot_product_attention


class InProducts(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is computed by `products` where that has all that is asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUSED and len(args) <= 4 and not _others(kwargs):
            return products(*args, **{name: x for name, x in kwargs.items() if name in _KNOWN})
        return func(*args, **kwargs)


_FUSED = (F.scaled_dot_product_attention, scaled_dot_product_attention)
_KNOWN = ("query", "key", "value", "attn_mask", "scale")


def _others(kwargs: dict[str, Any]) -> bool:
    """Dropout, or keys that are shared by heads or hidden in a triangle, as for text."""
    return any(value for name, value in kwargs.items() if name not in _KNOWN)
