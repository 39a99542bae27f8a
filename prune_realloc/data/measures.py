"""Which values of mean, std, crop and resizing prepare an image: the bounds of what files state and of what is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

BYTE = 255.0
"""The largest pixel where pixels are whole numbers; files may state mean and std of these."""
BOUNDS = {"mean": (0.0, BYTE), "std": (1e-9, BYTE), "crop_pct": (0.01, 10.0)}
"""Field of timm's `pretrained_cfg` -> its least and its largest number. A smaller crop resizes to more than fits."""
CHOICES = {
    "interpolation": ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    "crop_mode": ("center", "squash", "border"),
}
"""Field -> the words that it may be."""
_MOST_CHANNELS = 64


def measure(key: str, value: Any) -> Any:
    """A field of timm's `pretrained_cfg` as it is used: a list of numbers for `mean` and `std`, a number, or a word.

    Args:
        key: one of `core.names.PREPROCESSING`.

    Returns:
        None: the value states nothing of it, or is out of bounds.
    """
    if key in ("mean", "std"):
        return _channels(key, value)
    if key == "crop_pct":
        return float(value) if _within(key, value) else None
    return value if isinstance(value, str) and value in CHOICES[key] else None


def _channels(key: str, value: Any) -> list[float] | None:
    if isinstance(value, Tensor | np.ndarray):
        value = value.flatten()[: _MOST_CHANNELS + 1].tolist()
    values = value if isinstance(value, list | tuple) else [value]
    good = 0 < len(values) <= _MOST_CHANNELS and all(_within(key, one) for one in values)
    return [float(one) for one in values] if good else None


def _within(key: str, value: Any) -> bool:
    least, most = BOUNDS[key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and least <= value <= most
