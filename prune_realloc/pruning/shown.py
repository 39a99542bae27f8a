"""Of how many directions that a layer could read the images show nothing: there a refit knows only the weights."""

# U inputs of a layer

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prune_realloc.core.structure import Structure
from prune_realloc.pruning.moments import ROUNDING, LinearMoments

_FEW = 0.01
"""A share of directions that is not worth a word."""


def share_not_shown(covariance: Tensor) -> float:
    """Share of the U directions without variance, whatever the units' scales; of a covariance (U, U)."""
    deviations = covariance.diagonal().clamp_min(0).sqrt()
    scale = torch.where(deviations > 0, 1 / deviations, 0.0)
    scaled = scale[:, None] * covariance * scale
    every = torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    if not torch.linalg.cholesky_ex(scaled - ROUNDING * len(scaled) * every).info:  # a fifth of the time of values
        return 0.0
    values = torch.linalg.eigvalsh(scaled)
    return 1 - float((values > ROUNDING * values.amax().clamp_min(1.0)).double().mean())


def never_shown(writers: Mapping[str, LinearMoments], structure: Structure, images: int) -> list[str]:
    """A note that names the layer of which the images show the smallest share.

    Args:
        writers: moments of what the layers read that write to a stream, by `Structure.writers`.
        images: how many there were.
    """
    shares = {key: share_not_shown(moments.covariance) for key, moments in writers.items()}
    worst = max(shares, key=lambda key: shares[key], default=None)
    if worst is None or shares[worst] <= _FEW:
        return []
    return [
        f"{images} images show nothing of {shares[worst]:.0%} of the {len(writers[worst].mean)} directions that "
        f"{structure.writers()[worst].writer} reads: what is known there is the weights alone; take more images "
        "(samples), or more varied ones"
    ]
