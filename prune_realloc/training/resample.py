"""Crops of many small images at once, resized as Pillow does it.

Pillow resizes rows, then columns; each new pixel is a weighted sum of old ones, in whole numbers. So a crop and its
resizing are two products with matrices, one for each image. In double precision whole numbers of this size are exact:
neither the batch that an image is in nor the number of threads changes a bit, and the pixels are Pillow's. (From 13 on,
Pillow takes columns first where it lowers a crop more than it narrows it, which rounds otherwise.)
"""

# B images, C channels, (H, W) their size, (h, w) the size of what comes of them

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from prune_realloc.training.draws import Floats, Rectangles

_TOGETHER = 32
"""Images that are computed at once: of 32 px, they stay in a processor's cache."""
_BITS = 22
"""Of a weight behind the point, in Pillow."""


def crop_and_resize(images: Tensor, crops: Rectangles, size: tuple[int, int], interpolation: str) -> Tensor:
    """`images` (B, H, C, W) of bytes -> whole numbers of 0 to 255 in floats, shape (B, C, h, w)."""
    count, height, channels, width = images.shape
    across = _matrices(width, size[1], interpolation, crops.left, crops.width).transpose(1, 2)
    down = _matrices(height, size[0], interpolation, crops.top, crops.height)
    found = torch.empty((count, channels, *size))
    for start in range(0, count, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        rows = _rounded(images[part].double().view(-1, height * channels, width) @ across[part])
        both = _rounded(down[part] @ rows.view(-1, height, channels * size[1]))
        found[part] = both.view(-1, size[0], channels, size[1]).transpose(1, 2)
    return found


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(2.0 ** (_BITS - 1)).mul_(2.0**-_BITS).floor_().clamp_(0, 255)


def _matrices(old: int, new: int, interpolation: str, starts: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Weights that make `new` pixels of `lengths` of the `old` ones from `starts` on, shape (B, new, old)."""
    windows = _table(old, new, interpolation).unfold(2, old, 1)  # the same weights, begun at each place before them
    return windows[torch.from_numpy(lengths), :, torch.from_numpy(old - starts)]


@cache
def _table(old: int, new: int, interpolation: str) -> Tensor:
    """Weights for each number of pixels that a crop may have, behind `old` zeros, shape (old + 1, new, 2 old)."""
    table = np.zeros((old + 1, new, 2 * old))
    for length in range(1, old + 1):
        table[length, :, old : old + length] = _weights(length, new, interpolation)
    return torch.from_numpy(table)


def _weights(old: int, new: int, interpolation: str) -> Floats:
    """Pillow's, in whole numbers, shape (new, old)."""
    scale = old / new
    places = np.arange(old)
    if interpolation == "nearest":
        steps = np.full((new, 1), scale)
        steps[0] /= 2
        return (places == np.floor(steps.cumsum(axis=0))) * 2.0**_BITS  # Pillow adds up, too
    centers = ((np.arange(new) + 0.5) * scale)[:, None]
    support, kernel = _FILTERS[interpolation]
    stretch = max(scale, 1.0)
    reach = support * stretch
    near = (places >= np.floor(centers - reach + 0.5)) & (places < np.floor(centers + reach + 0.5))
    weights = kernel((places - centers + 0.5) / stretch) * near
    weights /= weights.sum(axis=1, keepdims=True)
    return np.copysign(np.floor(np.abs(weights) * 2.0**_BITS + 0.5), weights)


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def _bilinear(x: Floats) -> Floats:
    return np.maximum(1 - np.abs(x), 0)


def _hamming(x: Floats) -> Floats:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(math.pi * x)), 0)


def _bicubic(x: Floats) -> Floats:
    """Catmull and Rom's, a = -0.5."""
    x = np.abs(x)
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS: dict[str, tuple[float, Callable[[Floats], Floats]]] = {
    "box": (0.5, _box),
    "bilinear": (1.0, _bilinear),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
"""Name -> how far from its centre a new pixel looks, in old ones, and the weight at such a distance."""
