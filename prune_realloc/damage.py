"""What each width of a site costs, in nats per image, after rotation and refit: the curves that the planner reads.

A writer (proj, fc2) with weights W reads units x with covariance C; G is the second moment of the loss gradient at
its output, N the tokens of an image. If the units P go and W is refitted on the rest, the output's error has the
covariance W_P S W_P', where S = ([C^-1]_PP)^-1 is what of x_P the rest cannot tell, and to second order the loss
grows by

    N / 2 tr(G W_P S W_P')

(Hassibi & Stork, Optimal Brain Surgeon, NeurIPS 1993, for the layer's own quadratic error; the Fisher information of
the tokens, taken as independent, in place of the Hessian). Units go one by one, the cheapest first. A channel of the
residual stream goes from all layers that read it at once; there W is the identity and G the gradient's at the input.

Q and K meet in logits only. A q/k dimension d adds q_d k_d, so taking it out changes the loss through q_d g_d, g
being the loss gradient at q: N / 2 E[q_d^2] E[g_d^2], in the basis that makes both moments diagonal
(`compensate.rotated`).
"""

# U units that a writer reads, H heads, D stream channels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.moments import LayerMoments, LinearMoments, LogitMoments
from prune_realloc.structure import Site, Structure, site_name

RIDGE = 1e-4
"""Added to covariances before they are inverted, as a share of their mean variance."""
_ROUNDING = 1e-12
"""What sums of squares are known to, as a share of them; a smaller variance is none."""
_STEPS = 64
"""Units of a site without groups go in this many rounds; their order in a round is by the costs at its start."""


@dataclass(frozen=True)
class Curve:
    order: np.ndarray
    """Units of each group, the one that is kept longest first, shape (groups, width)."""
    damage: np.ndarray
    """Nats per image when only the first w units of each group are left, w = 0 .. width, shape (width + 1,)."""


def damage_curves(
    model: nn.Module, sites: Sequence[Site], structure: Structure, moments: LayerMoments,
    scores: Mapping[str, np.ndarray], *, refit: bool = True,
) -> dict[str, Curve]:  # fmt: skip
    """Site name -> curve; `model` and `moments` are in the (rotated) basis to cut in.

    Args:
        scores: whole heads go in the order of their scores, the lowest first.
        refit: False for cuts that only shift means: units cost what each costs alone, N / 2 w' G w C_pp.
    """
    stream, *inside = sites
    curves = {stream.name: _stream_curve(stream, moments, refit)}
    by_name = {site.name: site for site in inside}
    curves |= {name: _logit_curve(by_name[name], read) for name, read in moments.logits.items()}
    lost: dict[str, float] = dict.fromkeys((site.name for site in inside if site.axis == "block"), 0.0)
    for branch in structure.branches:
        site, read = by_name[branch.site], moments.writers[branch.site]
        weight = model.get_parameter(f"{branch.writer}.weight").detach().double()
        curves[site.name] = _writer_curve(site, weight, read, refit)
        lost[site_name("block", branch.block)] += curves[site.name].damage[0]
        heads = by_name.get(site_name("heads", branch.block))
        if site.axis == "v" and heads is not None:
            order = np.argsort(-scores[heads.name], kind="stable")
            curves[heads.name] = _heads_curve(order, weight, read, refit)
    curves |= {name: Curve(np.array([[0]]), np.array([damage, 0.0])) for name, damage in lost.items()}
    return {site.name: curves[site.name] for site in sites}


def _writer_curve(site: Site, weight: Tensor, moments: LinearMoments, refit: bool) -> Curve:
    if not refit:
        return score_curve(site, _alone(weight, moments))
    return _eliminated([_Elimination(weight, moments)], site.groups, site.width)


def _stream_curve(site: Site, moments: LayerMoments, refit: bool) -> Curve:
    """A channel of the stream goes from all readers at once; each is refitted on the channels that are left."""
    reads = moments.readers.values()
    eyes = [torch.eye(site.units, dtype=torch.float64, device=read.mean.device) for read in reads]
    if not refit:
        return score_curve(site, np.sum([_alone(eye, read) for eye, read in zip(eyes, reads, strict=True)], axis=0))
    return _eliminated([_Elimination(eye, read) for eye, read in zip(eyes, reads, strict=True)], 1, site.units)


def _alone(weight: Tensor, moments: LinearMoments) -> np.ndarray:
    """Damage of each unit by itself when nothing is refitted but the mean."""
    power = ((moments.gradient @ weight) * weight).sum(0) * moments.covariance.diagonal()
    return (moments.tokens / 2 * power).cpu().numpy()


def _eliminated(states: Sequence[_Elimination], groups: int, width: int) -> Curve:
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


def _heads_curve(order: np.ndarray, weight: Tensor, moments: LinearMoments, refit: bool) -> Curve:
    if not refit:
        lost = _alone(weight, moments).reshape(len(order), -1).sum(1)[order]
        return Curve(order[None], np.append(lost[::-1].cumsum()[::-1], 0.0))
    state = _Elimination(weight, moments)
    width = weight.shape[1] // len(order)
    damage = [0.0]
    for head in order[::-1]:
        damage.append(float(state.remove_((state.alive // width == int(head)).nonzero().squeeze(1)).sum()))
    return Curve(order[None], np.cumsum(damage)[::-1].copy())


def _logit_curve(site: Site, moments: LogitMoments) -> Curve:
    power = moments.activation.diagonal(dim1=1, dim2=2) * moments.gradient.diagonal(dim1=1, dim2=2)
    return score_curve(site, (moments.tokens / 2 * power).cpu().numpy())


class _Elimination:
    """Units of one writer, going in any order; what is left is refitted at every step."""

    def __init__(self, weight: Tensor, moments: LinearMoments) -> None:
        self.alive = torch.arange(weight.shape[1], device=weight.device)
        # with R'R = N / 2 G, the squared length of a column of R W is what an error of that shape costs
        values, vectors = torch.linalg.eigh(moments.tokens / 2 * moments.gradient)
        self.weight = values.clamp(min=0).sqrt()[:, None] * (vectors.T @ weight)
        self.inverse = torch.linalg.inv(ridged(moments.covariance, moments.mean))

    def costs(self) -> Tensor:
        """Damage of removing each unit that is left, alone."""
        return self.weight.square().sum(0) / self.inverse.diagonal()

    def remove_(self, positions: Tensor) -> Tensor:
        """Take units out in the given order; returns the damage that each adds."""
        stays = torch.ones(len(self.alive), dtype=torch.bool, device=positions.device)
        stays[positions] = False
        left = stays.nonzero().squeeze(1)
        lower = torch.linalg.cholesky(self.inverse[positions][:, positions])
        # row i of L^-1 W_P' is unit i's column in W after those before it went, over the square root of [C^-1]_ii
        gone = self.weight[:, positions]
        damage = torch.linalg.solve_triangular(lower, gone.T, upper=False).square().sum(1)
        rest = self.inverse.index_select(0, left)
        across = rest.index_select(1, positions)
        update = torch.cholesky_solve(across.T, lower)
        self.weight = self.weight.index_select(1, left).addmm_(gone, update, alpha=-1)
        self.inverse = rest.index_select(1, left).addmm_(across, update, alpha=-1)
        self.alive = self.alive[left]
        return damage


def ridged(covariance: Tensor, mean: Tensor, share: float = RIDGE) -> Tensor:
    """`covariance` with `share` of its mean variance on the diagonal.

    Where the inputs are constant, what is left of `covariance` is rounding, and may be negative: the sum of their
    squares decides then, and at last (a dead layer) the smallest numbers.
    """
    variances = covariance.diagonal()
    rounding = _ROUNDING * (variances.sum() + mean.square().sum())
    amount = torch.maximum(share * variances.mean(), rounding).clamp(min=torch.finfo(covariance.dtype).tiny ** 0.5)
    return covariance + amount * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


def score_curve(site: Site, scores: np.ndarray) -> Curve:
    """Where nothing better is known: units go in the order of their scores, which add up."""
    by_group = scores.reshape(site.groups, -1)
    order = np.argsort(-by_group, axis=1, kind="stable")
    kept = np.take_along_axis(by_group, order, 1).clip(min=0).sum(0)
    return Curve(order, np.append(kept[::-1].cumsum()[::-1], 0.0))


def kept_units(curves: Mapping[str, Curve], widths: Mapping[str, int], sites: Sequence[Site]) -> dict[str, np.ndarray]:
    """Site name -> units that stay at `widths`, as `surgery.cut` takes them."""
    keep = {}
    for site in sites:
        width, order = widths[site.name], curves[site.name].order
        if width or site.axis == "block":  # the other sites of a block that goes are gone with it
            runs = np.arange(len(order))[:, None] * order.shape[1]
            keep[site.name] = np.sort((runs + order[:, :width]).ravel())
    return keep
