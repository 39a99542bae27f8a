"""How images are prepared, as files state it: values that hold for timm, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from prune_realloc.data.preprocessing import CROP_MODES, INTERPOLATIONS

_MOST_CHANNELS = 64
_BYTE = 255.0


def measure(key: str, value: Any) -> Any:
    """A field of timm's `pretrained_cfg`; None: the value states nothing of it.

    Args:
        key: one of `core.names.PREPROCESSING`.
    """
    if key in ("mean", "std"):
        return _channels(value, least=0.0 if key == "mean" else 1e-9)
    if key == "crop_pct":
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1.5
        return float(value) if good else None
    known = INTERPOLATIONS if key == "interpolation" else CROP_MODES
    return value if isinstance(value, str) and value in known else None


def scaled(found: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Mean and std of pixels from 0 to 255, as other libraries have them, for pixels from 0 to 1.

    Returns:
        All fields, and the names of those that were divided by 255.
    """
    large = [key for key in ("mean", "std") if key in found and max(found[key]) > 2]
    return {**found, **{key: [value / _BYTE for value in found[key]] for key in large}}, tuple(large)


def _channels(value: Any, least: float) -> list[float] | None:
    if isinstance(value, Tensor | np.ndarray):
        value = value.flatten()[: _MOST_CHANNELS + 1].tolist()
    values = value if isinstance(value, list | tuple) else [value]
    good = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values)
    if not good or not 0 < len(values) <= _MOST_CHANNELS or not all(least <= one <= _BYTE for one in values):
        return None
    return [float(one) for one in values]
