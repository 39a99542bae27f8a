"""Random numbers of many images at once: a function of seed, epoch, image and turn, whatever batch an image is in."""

# B images

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CROP_ASPECTS = (3 / 4, 4 / 3)
"""Least and largest width / height of a crop."""
_ATTEMPTS = 10
"""Rectangles that are drawn at most until one fits; timm draws as many."""


class Draws:
    """One stream of numbers for each image of a batch: SplitMix64 (Steele et al., 2014), seeded by its place."""

    def __init__(self, seed: int, epoch: int, images: Ints, turns: Ints) -> None:
        """`images`, `turns`: shape (B,); which image is seen, and for the how manieth time in its epoch."""
        start = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
        keys = _mixed(start + images.astype(np.uint64) * _GOLDEN)
        self.keys = _mixed(keys + turns.astype(np.uint64) * _GOLDEN)
        """Shape (B,); seeds for whatever draws in its own way."""
        self._drawn = np.uint64(0)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Floats:
        """The next number of each image, shape (B,), `high` left out."""
        self._drawn += np.uint64(1)
        bits = _mixed(self.keys + np.full_like(self.keys, _GOLDEN) * self._drawn)
        share: Floats = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * share

    def below(self, ends: Ints) -> Ints:
        """The next whole number of each image, from 0 and below `ends`, shape (B,)."""
        return (self.uniform() * ends).astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Rectangles:
    """One for each image, in pixels; all of shape (B,)."""

    left: Ints
    top: Ints
    width: Ints
    height: Ints
    found: NDArray[np.bool_]
    """Whether one was drawn that fits; where not, the numbers mean nothing."""

    @property
    def sides(self) -> list[tuple[int, int, int, int]]:
        """Of each: top, bottom, left, right."""
        found = self.top, self.top + self.height, self.left, self.left + self.width
        return [*zip(*(side.tolist() for side in found), strict=True)]


def draw_rectangles(
    draws: Draws,
    widths: Ints,
    heights: Ints,
    *,
    areas: tuple[float, float],
    aspects: tuple[float, float],
    room: int = 0,
) -> Rectangles:
    """Rectangles in images of these sizes, shape (B,), by Inception's rule, as timm draws them.

    Args:
        areas: least and largest area, as a share of the image.
        aspects: least and largest width / height; its logarithm is uniform.
        room: pixels by which a rectangle must be narrower and lower than the image.
    """
    width, height, found = np.ones_like(widths), np.ones_like(heights), np.zeros(len(widths), bool)
    for _ in range(_ATTEMPTS):
        area = draws.uniform(*areas) * widths * heights
        aspect = np.exp(draws.uniform(*np.log(aspects)))
        w, h = (np.maximum(1, np.rint(np.sqrt(side))).astype(np.int64) for side in (area * aspect, area / aspect))
        fits = ~found & (w <= widths - room) & (h <= heights - room)
        width, height, found = np.where(fits, w, width), np.where(fits, h, height), found | fits
    left, top = draws.below(widths - width + 1), draws.below(heights - height + 1)
    return Rectangles(left, top, width, height, found)


def draw_crops(draws: Draws, widths: Ints, heights: Ints, least: float) -> Rectangles:
    """Crops of at least a share of images of these sizes, shape (B,), as timm draws them.

    Where none fits, it is the largest in the middle that is neither too wide nor too high.
    """
    narrow, wide = _CROP_ASPECTS
    drawn = draw_rectangles(draws, widths, heights, areas=(least, 1.0), aspects=_CROP_ASPECTS)
    width = np.where(drawn.found, drawn.width, np.minimum(widths, np.rint(heights * wide).astype(np.int64)))
    height = np.where(drawn.found, drawn.height, np.minimum(heights, np.rint(widths / narrow).astype(np.int64)))
    left = np.where(drawn.found, drawn.left, (widths - width) // 2)
    top = np.where(drawn.found, drawn.top, (heights - height) // 2)
    return Rectangles(left, top, width, height, np.ones_like(drawn.found))
