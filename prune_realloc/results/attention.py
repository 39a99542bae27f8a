"""Fused attention as the products that it is made of, for an exporter that cannot write PyTorch's one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# N queries, M keys, K width of a head, V width of its values


class InProducts(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is computed by `attention` where that has all that is asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) <= 4 and not _others(kwargs):
            return attention(*args, **{name: x for name, x in kwargs.items() if name in _KNOWN})
        return func(*args, **kwargs)


_KNOWN = ("query", "key", "value", "attn_mask", "scale")


def _others(kwargs: dict[str, Any]) -> bool:
    """Dropout, or keys that are shared by heads or hidden in a triangle, as for text."""
    return any(value for name, value in kwargs.items() if name not in _KNOWN)


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Softmax of the logits times the values, shape (.., N, V).

    Args:
        query: (.., N, K).
        key: (.., M, K).
        value: (.., M, V).
        attn_mask: added to the logits (.., N, M); or booleans, of the logits that count.
        scale: of the logits; None: 1 / sqrt(K).
    """
    logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if attn_mask is None or attn_mask.dtype != torch.bool:
        return (logits if attn_mask is None else logits + attn_mask).softmax(-1) @ value
    shares = logits.masked_fill(~attn_mask, float("-inf")).softmax(-1)
    # a query to which nothing counts gets zeros, as from PyTorch's function
    return shares.masked_fill(~attn_mask.any(-1, keepdim=True), 0.0) @ value
