"""How far a layer's fit may depart from the weights at hand, chosen by images that the fit has not seen.

The sums over the images are kept in two halves. Each candidate is fitted to either half and judged by the other; all of
it follows from the sums, so no image is looked at again. Where no candidate is better than the weights at hand, as on
too few images, these stay and the intercept alone is set.
"""

# U inputs of a layer, D outputs

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.pruning.fit import Fits
from prune_realloc.pruning.linear import Layer, matrix, scale_of
from prune_realloc.pruning.moments import ROUNDING, Regression

RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Candidates, as `fit_` takes them."""


class Halves:
    """Weighted sums over a layer's inputs and what it should put out, of every other image."""

    def __init__(self) -> None:
        self.parts = (Regression(), Regression())
        self.images = 0

    def add(self, images: int, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        """One batch of so many images; x, t and weight as `Regression` takes them."""
        x, t = (each.reshape(images, -1, each.shape[-1]) for each in (x, t))
        for at, part in enumerate(self.parts):
            first = (at + self.images) % 2
            if first < images:
                part.add(x[first::2], t[first::2], weight)
        self.images += images

    def whole(self) -> Regression:
        """The sums over all images."""
        one, other = self.parts
        return one.plus(other) if self.images > 1 else one

    def choice(self, layer: Layer, norm: _BatchNorm | None) -> Choice | None:
        """The candidate with the lowest error on images that it was not fitted to; None: there is one image.

        Args:
            norm: what reads the layer's output and nothing else does, as `fit_` has it; errors count behind it.
        """
        if self.images < 2:
            return None
        weight, centred = matrix(layer).double(), layer.bias is not None or norm is not None
        scale = weight.new_ones(len(weight)) if norm is None else scale_of(norm)
        fits = [Fits(weight, part, centred) for part in self.parts]

        def error(ridge: float | None, parts: Sequence[Regression]) -> float:
            return sum(_error(*fit.at(ridge), part, scale) for fit, part in zip(fits, parts, strict=True))

        unseen = {ridge: error(ridge, self.parts[::-1]) for ridge in (None, *RIDGES)}
        best = min(unseen, key=lambda ridge: unseen[ridge])
        without = sum(_error_of_mean(part, scale, centred) for part in self.parts)
        return Choice(best, error(best, self.parts), unseen[best], without)


@dataclass(frozen=True)
class Choice:
    """A strength of the fit, and its mean squared errors when either half is fitted, summed over the two."""

    ridge: float | None
    """None: the weights at hand, with the intercept alone set."""
    fitted: float
    """On the half that was fitted."""
    unseen: float
    """On the other half."""
    without: float
    """On the half that was fitted, of a layer that puts out a constant."""


@dataclass(frozen=True)
class Explained:
    """Share of what layers should put out, as variance, that they do put out when fitted to one half of the images."""

    fitted: float
    """On that half, mean over the layers."""
    unseen: float
    """On the other half."""


def explained(choices: Sequence[Choice]) -> Explained | None:
    """Over all layers that are asked for anything; None: there are none."""
    asked = [choice for choice in choices if choice.without > 0]
    if not asked:
        return None
    return Explained(
        fitted=1 - fmean(choice.fitted / choice.without for choice in asked),
        unseen=1 - fmean(choice.unseen / choice.without for choice in asked),
    )


def _error(weight: Tensor, intercept: Tensor, moments: Regression, scale: Tensor) -> float:
    """Mean squared error of a fit on the images of `moments`.

    Args:
        scale: of each output, shape (D,).
    """
    squares = moments.tt + (weight * (weight @ moments.xx - 2 * moments.tx)).sum(1)
    squares = squares + intercept * (2 * (weight @ moments.x - moments.t) + moments.count * intercept)
    return float((scale.square() * squares).sum() / moments.count)


def _error_of_mean(moments: Regression, scale: Tensor, centred: bool) -> float:
    """The same of the best constant, which is 0 where the layer has no intercept."""
    constant = moments.t / moments.count if centred else torch.zeros_like(moments.t)
    squares = moments.tt - moments.count * constant.square()
    squares = squares.where(squares > ROUNDING * moments.tt, 0.0)
    return float((scale.square() * squares).sum() / moments.count)
