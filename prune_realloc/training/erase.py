"""Random rectangles of noise in images (Zhong et al., 2017)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prune_realloc.training.draws import Draws, draw_rectangles

_AREAS, _ASPECTS = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Least and largest area, as a share of the image, and width / height; timm's."""


def erase_(images: Tensor, draws: Draws, probability: float) -> None:
    """Fill a rectangle in each of normalised `images` (B, C, h, w) with normal noise, with such a probability."""
    count, channels, height, width = images.shape
    sizes = np.full(count, width), np.full(count, height)
    erased = draws.uniform() < probability
    boxes = draw_rectangles(draws, *sizes, areas=_AREAS, aspects=_ASPECTS, room=1)
    sides = boxes.sides
    for i in np.flatnonzero(erased & boxes.found):
        top, bottom, left, right = sides[i]
        noise = torch.Generator().manual_seed(int(draws.keys[i]))
        images[i, :, top:bottom, left:right] = torch.randn((channels, bottom - top, right - left), generator=noise)
