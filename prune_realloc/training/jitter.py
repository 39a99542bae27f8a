"""Brightness, contrast and saturation of many images at once, as Pillow changes them."""

# B images, C channels, (h, w) their size; pixels are whole numbers from 0 to 255, in floats

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prune_realloc.training.draws import Draws


def jitter_(images: Tensor, draws: Draws, strength: float) -> None:
    """Change `images` (B, C, h, w), each by factors from 1 - `strength` to 1 + `strength`, in an order of its own."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    factors = [torch.from_numpy(draws.uniform(low, high)).float() for _ in _DULLED]
    order = np.argsort([draws.uniform() for _ in _DULLED], axis=0)  # (changes, B)
    for turn in order:
        for number, (factor, dulled) in enumerate(zip(factors, _DULLED, strict=True)):
            chosen = torch.from_numpy(np.flatnonzero(turn == number))
            picked = images[chosen]
            images[chosen] = _blended(dulled(picked), picked, factor[chosen])


def _blended(dull: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """From `dull` (factor 0) over the images (1) beyond them, cut off to whole numbers as in Pillow."""
    return (dull + factor[:, None, None, None] * (images - dull)).clamp_(0, 255).floor_()


def _black(images: Tensor) -> Tensor:
    return torch.zeros_like(images)


def _even(images: Tensor) -> Tensor:
    """Each image's mean level of gray."""
    return (_gray(images).mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64) + 0.5).floor().float()


def _gray(images: Tensor) -> Tensor:
    """Shape (B, 1, h, w); Pillow's weights, and whole numbers in which floats are exact."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).floor_()


_DULLED: tuple[Callable[[Tensor], Tensor], ...] = (_black, _even, _gray)
"""What an image becomes without brightness, without contrast, without saturation."""
