"""One layer, fitted in closed form to moments of what it reads and of what it should put out."""

# U E inputs of a layer, D outputs

from __future__ import annotations

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
    weight, intercept = solved(matrix(layer).double(), moments, ridge, centred)
    if ridge is not None:
        set_(layer, weight)
    intercept = intercept + shift
    if layer.bias is not None:
        layer.bias.copy_(intercept)
    elif norm is not None:
        assert norm.running_mean is not None
        norm.running_mean.sub_(intercept)


def solved(weight: Tensor, moments: Regression, ridge: float | None, centred: bool) -> tuple[Tensor, Tensor]:
    """What `fit_` sets, from weights (D, U E) in double precision: such weights, and the intercept (D,).

    Args:
        centred: False: there is no intercept, so the means are fitted by the weights; it is to be left aside.
    """
    count = moments.count
    x, t = (total / count if centred else torch.zeros_like(total) for total in (moments.x, moments.t))
    if ridge is not None:
        xx, tx = moments.xx / count - torch.outer(x, x), moments.tx / count - torch.outer(t, x)
        weight = weight + torch.linalg.solve(ridged(xx, x, ridge), (tx - weight @ xx).T).T
    return weight, t - weight @ x
