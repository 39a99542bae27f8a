"""How far a layer's fit may depart from the weights at hand, chosen by images that the fit has not seen.

The sums over the images are kept in two halves. Each candidate is fitted to either half and judged by the other; all of
it follows from the sums, so no image is looked at again. Where no candidate is better than the weights at hand, as on
too few images, these stay and the intercept alone is set.
"""

# U inputs of a layer, D outputs

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.pruning.fit import solved
from prune_realloc.pruning.linear import Layer, matrix, scale_of
from prune_realloc.pruning.moments import Regression

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

    def ridge(self, layer: Layer, norm: _BatchNorm | None) -> float | None:
        """The candidate with the lowest error on images that it was not fitted to; None: the weights at hand.

        Args:
            norm: what reads the layer's output and nothing else does, as `fit_` has it; errors count behind it.
        """
        if self.images < 2:
            return None
        weight, centred = matrix(layer).double(), layer.bias is not None or norm is not None
        scale = weight.new_ones(len(weight)) if norm is None else scale_of(norm)
        candidates: tuple[float | None, ...] = (None, *RIDGES)

        def unseen(ridge: float | None) -> float:
            fits = [solved(weight, part, ridge, centred) for part in self.parts]
            return sum(_error(*fit, other, scale) for fit, other in zip(fits, self.parts[::-1], strict=True))

        return min(candidates, key=unseen)


def _error(weight: Tensor, intercept: Tensor, moments: Regression, scale: Tensor) -> float:
    """Mean squared error of a fit on the images of `moments`, but for the mean square of what is asked for.

    Args:
        scale: of each output, shape (D,).
    """
    squares = (weight * (weight @ moments.xx - 2 * moments.tx)).sum(1)
    squares = squares + intercept * (2 * (weight @ moments.x - moments.t) + moments.count * intercept)
    return float((scale.square() * squares).sum() / moments.count)
