"""One layer, fitted in closed form to moments of what it reads and of what it should put out."""

# U E inputs of a layer, D outputs

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.pruning.elimination import ridged
from prune_realloc.pruning.linear import Layer, matrix, set_
from prune_realloc.pruning.moments import Regression


def fit_(
    layer: Layer,
    moments: Regression,
    ridge: float | None,
    shift: Tensor | float = 0.0,
    norm: _BatchNorm | None = None,
) -> None:
    """Set a layer's weights and intercept so that they map `moments.x` to `moments.t`, plus `shift`.

    The intercept is the layer's bias; where it has none, that of the batch norm behind it, by its running mean.

    Args:
        ridge: share of the inputs' mean variance by which a departure from the present weights is punished; None
            leaves the weights alone and sets the intercept.
        norm: what reads the layer's output and nothing else does.
    """
    centred = layer.bias is not None or norm is not None
    weight, intercept = Fits(matrix(layer).double(), moments, centred).at(ridge)
    if ridge is not None:
        set_(layer, weight)
    intercept = intercept + shift
    if layer.bias is not None:
        layer.bias.copy_(intercept)
    elif norm is not None:
        assert norm.running_mean is not None
        norm.running_mean.sub_(intercept)


class Fits:
    """The fits of a layer to the same moments, by their ridges: what they share is computed once."""

    def __init__(self, weight: Tensor, moments: Regression, centred: bool) -> None:
        """
        Args:
            weight: the weights at hand, shape (D, U E), in double precision.
            centred: False: there is no intercept, so the means are fitted by the weights; it is to be left aside.
        """
        self._weight, self._moments = weight, moments
        count = moments.count
        self._x, self._t = (total / count if centred else torch.zeros_like(total) for total in (moments.x, moments.t))

    @cached_property
    def _xx(self) -> Tensor:
        return self._moments.xx / self._moments.count - torch.outer(self._x, self._x)

    @cached_property
    def _missing(self) -> Tensor:
        """What the weights at hand leave to be explained by each input, shape (U E, D)."""
        tx = self._moments.tx / self._moments.count - torch.outer(self._t, self._x)
        return (tx - self._weight @ self._xx).T

    def at(self, ridge: float | None) -> tuple[Tensor, Tensor]:
        """What `fit_` sets: weights like those at hand, and the intercept (D,)."""
        weight = self._weight
        if ridge is not None:
            lower = torch.linalg.cholesky(ridged(self._xx, self._x, ridge))
            weight = weight + torch.cholesky_solve(self._missing, lower).T
        return weight, self._t - weight @ self._x
