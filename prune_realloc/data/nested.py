"""Tensors in tuples, lists and dicts, as loaders and networks give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same tuples, lists and dicts with every tensor changed; everything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, each) for each in value))
    if type(value) in (tuple, list):
        return type(value)(mapped(change, each) for each in value)
    if isinstance(value, Mapping):
        changed = {key: mapped(change, each) for key, each in value.items()}
        return changed if type(value) is dict else _like(value, changed)
    return value


def moved(value: Any, device: torch.device) -> Any:
    """With every tensor on a device."""
    return mapped(lambda tensor: tensor.to(device), value)


def single(value: Any) -> Any:
    """With every half tensor in single precision."""
    return mapped(_at_least_single, value)


def _at_least_single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


def _like(value: Any, changed: dict[Any, Any]) -> Any:
    """A mapping of another kind (an output class of Hugging Face) with these entries; a dict where it takes none."""
    try:
        return type(value)(**changed)
    except TypeError:
        return changed


def described(value: Any) -> str:
    """What it is, for messages."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.ndim == 0:
        return "one number"
    return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
