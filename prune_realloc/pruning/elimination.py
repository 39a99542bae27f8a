"""Backward elimination of units, cheapest first, with the refit of the rest (Optimal Brain Surgeon)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prune_realloc.pruning.moments import ROUNDING, LinearMoments

RIDGE = 1e-4
"""Added to covariances before they are inverted, as a share of their mean variance."""
_LEAST = 1e-10
"""Added in the same way to what errors of a layer cost, so that it has a root where some directions cost nothing."""
_STEPS = 64
"""Units of a site without groups go in this many rounds; their order in a round is by the costs at its start."""


@dataclass(frozen=True)
class Curve:
    """In which order the units of a site go, and what is lost on the way."""

    order: np.ndarray
    """Units of each group, counted within it, the one that is kept longest first; shape (groups, width)."""
    damage: np.ndarray
    """Nats per image when only the first w units of each group are left, w = 0 .. width, shape (width + 1,)."""


def eliminate(states: Sequence[Elimination], groups: int, width: int) -> Curve:
    """All states lose the same units: in turn the cheapest of each group, judged by the sum over the states."""
    rounds: list[np.ndarray] = []
    damage = [0.0]
    while left := len(states[0].alive) // groups:
        per_group = 1 if groups > 1 else min(left, max(1, width // _STEPS))
        costs = torch.stack([state.costs() for state in states]).sum(0)
        cheapest = costs.reshape(groups, left).argsort(dim=1, stable=True)[:, :per_group]
        offset = left * torch.arange(groups, device=cheapest.device)[:, None]
        positions = (cheapest + offset).T.reshape(-1)  # all groups' cheapest, then all groups' second, ...
        rounds += list((states[0].alive[positions] % width).reshape(per_group, groups).cpu().numpy())
        lost = torch.stack([state.remove_(positions) for state in states]).sum(0)
        damage += lost.reshape(per_group, groups).sum(1).tolist()
    return Curve(np.stack(rounds[::-1], axis=1), np.cumsum(damage)[::-1].copy())


class Elimination:
    """Units of one writer, going in any order; what is left is refitted at every step.

    A unit goes with all its columns of the writer's matrix, E of them: one in a linear layer, one for each entry of the
    kernel in a convolution.
    """

    def __init__(self, weight: Tensor, moments: LinearMoments, columns: Tensor | None = None) -> None:
        """
        Args:
            weight: the writer's matrix, shape (D, inputs).
            columns: those of each unit, shape (units, E); what belongs to no unit stays. None: unit u has column u.
        """
        if columns is None:
            columns = torch.arange(weight.shape[1], device=weight.device)[:, None]
        self.alive = torch.arange(len(columns), device=weight.device)
        self._places = columns
        """Of each unit that is left: where its columns are now."""
        # with R'R = N / 2 G, the squared length of a column of R W is what an error of that shape costs
        costly = ridged(moments.tokens / 2 * moments.gradient, torch.zeros_like(weight[:, 0]), _LEAST)
        self.weight = torch.linalg.cholesky(costly).T @ weight
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridged(moments.covariance, moments.mean)))

    def costs(self) -> Tensor:
        """Damage of removing each unit that is left, alone."""
        places = self._places
        if places.shape[1] == 1:
            return (self.weight.square().sum(0) / self.inverse.diagonal())[places[:, 0]]
        own = self.inverse[places[:, :, None], places[:, None]]  # (units, E, E)
        gone = self.weight[:, places].permute(1, 2, 0)
        each = torch.linalg.solve_triangular(torch.linalg.cholesky(own), gone, upper=False)
        return each.square().sum((1, 2))

    def remove_(self, positions: Tensor) -> Tensor:
        """Take units out in the given order; returns the damage that each adds."""
        columns = self._places[positions].reshape(-1)
        across = self.inverse.index_select(0, columns)
        lower = torch.linalg.cholesky(across.index_select(1, columns))
        # row i of L^-1 W_P' is column i of W after those before it went, over the square root of [C^-1]_ii
        gone = self.weight.index_select(1, columns)
        damage = torch.linalg.solve_triangular(lower, gone.T, upper=False).square().sum(1)
        update = torch.cholesky_solve(across, lower)
        self.weight.addmm_(gone, update, alpha=-1)
        self.inverse.addmm_(across.T, update, alpha=-1)
        stays = torch.ones(len(self.alive), dtype=torch.bool, device=positions.device)
        stays[positions] = False
        self.alive, self._places = self.alive[stays], self._places[stays]
        self._close_gaps_(columns)
        return damage.reshape(len(positions), -1).sum(1)

    def _close_gaps_(self, gone: Tensor) -> None:
        """Columns from the end take the places of those that went: a copy of all that is left would take longer than
        everything else."""
        left = len(self.inverse) - len(gone)
        goes = torch.zeros(len(self.inverse), dtype=torch.bool, device=gone.device)
        goes[gone] = True
        gaps, last = goes[:left].nonzero().squeeze(1), (~goes[left:]).nonzero().squeeze(1) + left
        self.inverse[gaps] = self.inverse[last]
        self.inverse[:, gaps] = self.inverse[:, last]
        self.weight[:, gaps] = self.weight[:, last]
        self.inverse, self.weight = self.inverse[:left, :left], self.weight[:, :left]
        place = torch.arange(len(goes), device=gone.device)
        place[last] = gaps
        self._places = place[self._places]


def ridged(covariance: Tensor, mean: Tensor, share: float = RIDGE) -> Tensor:
    """`covariance` with `share` of its mean variance on the diagonal.

    Where the inputs are constant, what is left of `covariance` is rounding, and may be negative: the sum of their
    squares decides then, and at last (a dead layer) the smallest numbers.
    """
    variances = covariance.diagonal()
    rounding = ROUNDING * (variances.sum() + mean.square().sum())
    amount = torch.maximum(share * variances.mean(), rounding).clamp(min=torch.finfo(covariance.dtype).tiny ** 0.5)
    return covariance + amount * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
