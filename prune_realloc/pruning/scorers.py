"""Scorers: one number per unit of every site; larger = keep.

All gradient scorers read the same quantity. Put a gate z = 1 on a unit; then for image b with loss L_b (nats)

    s_b = dL_b/dz = sum over tokens and channels of activation x its gradient

is at once gradient x activation and, summed over the unit's weights, gradient x weight. One forward and one
backward over the data give s_b for every unit and image, because the loss is summed over the images of a batch
and each image's gate is read before anything mixes images. Then

    taylor  |mean_b s_b|                             Molchanov et al., CVPR 2019, eq. 8 (before squaring)
    fisher  mean_b s_b^2 / 2                         Theis et al., arXiv 1801.05787, eq. 7
    loss    -mean_b s_b + mean_b s_b^2 / 2           the second-order expansion of the loss change when z goes to
                                                     0, its curvature by the empirical Fisher

L_b is the loss at the image's label, but for fisher, which asks what changes the prediction: there gradients are of
random signs (`objectives.py`), so that mean s_b^2 is the Fisher information of the prediction, with labels or without.
"""

# B images, N tokens, C channels, U units

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from prune_realloc.core.structure import Site
from prune_realloc.pruning.gates import Moments, unit_values

WEIGHT_SCORERS = ("magnitude", "magnitude-l1", "random")
GRADIENT_SCORERS = ("taylor", "fisher", "loss")
SLOPE_SCORERS = ("taylor", "loss")
"""They read the mean gradient, so that it must be that of the loss at labels."""
ACTIVATION_SCORERS = ("activation",)
SCORERS = (*GRADIENT_SCORERS, *ACTIVATION_SCORERS, *WEIGHT_SCORERS)
DEFAULT_SCORER = "fisher"


def gradient_scores(scorer: str, moments: Moments, *, labelled: bool, half: int | None = None) -> dict[str, np.ndarray]:
    """Scores of every unit, in nats per image, from the moments of all images or of one half.

    Without labels the first-order term is zero in expectation (labels drawn from the model's own prediction), so
    `loss` leaves its sampling noise out.
    """
    pick = slice(None) if half is None else slice(half, half + 1)
    count = max(moments.count[pick].sum(), 1.0)
    scores = {}
    for name in moments.first:
        mean = moments.first[name][pick].sum(0) / count
        square = moments.second[name][pick].sum(0) / count
        if scorer == "taylor":
            scores[name] = np.abs(mean)
        elif scorer == "fisher" or not labelled:
            scores[name] = square / 2
        else:
            scores[name] = square / 2 - mean
    return scores


def weight_scores(scorer: str, model: nn.Module, sites: Iterable[Site], seed: int = 0) -> dict[str, np.ndarray]:
    """`magnitude` (L2) or `magnitude-l1` over all weights of each unit, or `random` (uniform, seeded).

    Buffers are no weights: what a batch norm keeps of its inputs does not count.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    scores = {}
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        if scorer == "random":
            scores[site.name] = torch.rand(site.units, generator=generator, dtype=torch.float64).numpy()
            continue
        total = np.zeros(site.units)
        for part in (part for part in site.slices if part.parameter in parameters):
            tensor = parameters[part.parameter].double()
            powers = tensor.abs() if scorer == "magnitude-l1" else tensor.square()
            others = [d for d in range(tensor.ndim) if d != part.dim]
            along = powers.sum(others) if others else powers
            total[unit_values(part)] += along.cpu().numpy()[part.index].sum(axis=1)
        scores[site.name] = total if scorer == "magnitude-l1" else np.sqrt(total)
    return scores
