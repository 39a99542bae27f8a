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
(`rotate.rotated`).
"""

# U units that a writer reads, H heads, D stream channels

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Axis, Site, Structure, site_beside
from prune_realloc.pruning.elimination import Curve, Elimination, eliminate
from prune_realloc.pruning.moments import LayerMoments, LinearMoments, LogitMoments
from prune_realloc.pruning.sites import stream_sites

_WRITTEN: tuple[Axis, ...] = ("v", "ffn", "hidden")
"""The axes whose units a layer reads that writes to the stream: without them the block adds nothing that depends on
its input."""


def damage_curves(
    model: nn.Module,
    sites: Sequence[Site],
    structure: Structure,
    moments: LayerMoments,
    scores: Mapping[str, np.ndarray],
    *,
    refit: bool = True,
) -> dict[str, Curve]:
    """Site name -> curve; `model` and `moments` are in the (rotated) basis to cut in.

    Args:
        scores: whole heads go in the order of their scores, the lowest first; and all units of sites that no branch
            writes, such as the channels between two convolutions.
        refit: False for cuts that only shift means: units cost what each costs alone, N / 2 w' G w C_pp.
    """
    by_name = {site.name: site for site in sites}
    curves = {name: _logit_curve(by_name[name], read) for name, read in moments.logits.items()}
    for name, site in stream_sites(sites).items():
        layers = [layer for layer, stream in structure.readers().items() if stream == name]
        reads = [read for layer in layers for read in _channel_reads(site, layer, moments.readers[layer])]
        curves[name] = _stream_curve(site, reads, refit) if reads else score_curve(site, scores[name])
    for branch in structure.branches:
        site, read = by_name[branch.site], moments.writers[branch.site]
        weight = model.get_parameter(f"{branch.writer}.weight").detach().double()
        curves[site.name] = _writer_curve(site, weight, read, refit)
        heads = by_name.get(site_beside(site.name, "heads"))
        if site.axis == "v" and heads is not None:
            order = np.argsort(-scores[heads.name], kind="stable")
            curves[heads.name] = _heads_curve(order, weight, read, refit)
    inside = [site for site in sites if site.axis != "block"]
    curves |= {site.name: score_curve(site, scores[site.name]) for site in inside if site.name not in curves}
    curves |= {site.name: _block_curve(site, inside, curves, scores) for site in sites if site.axis == "block"}
    return {site.name: curves[site.name] for site in sites}


def _block_curve(
    block: Site, inside: Sequence[Site], curves: Mapping[str, Curve], scores: Mapping[str, np.ndarray]
) -> Curve:
    """A whole block takes the damage of all that is written in it; where nothing is, its own score."""
    written = [curves[site.name].damage[0] for site in inside if site.block == block.block and site.axis in _WRITTEN]
    lost = sum(written) if written else float(scores[block.name].clip(min=0).sum())
    return Curve(np.array([[0]]), np.array([lost, 0.0]))


def _writer_curve(site: Site, weight: Tensor, moments: LinearMoments, refit: bool) -> Curve:
    """Units of the site go from the one layer that reads them."""
    if not refit:
        return score_curve(site, _alone(weight, moments))
    return eliminate([Elimination(weight, moments)], site.groups, site.width)


def _channel_reads(site: Site, layer: str, read: LinearMoments) -> list[LinearMoments]:
    """The moments of a layer's input by channel of the stream: one for each token of which it reads a channel.

    Patch merging reads four side by side; what one of them tells of another is left out, so the damage is an upper one.
    """
    inputs = next(part.index for part in site.slices if (part.parameter, part.dim) == (f"{layer}.weight", 1))
    if inputs.shape[1] == 1:
        return [read]
    return [
        LinearMoments(read.tokens, read.weight, read.gradient[c][:, c], read.mean[c], read.covariance[c][:, c])
        for c in torch.as_tensor(inputs.T, device=read.mean.device)
    ]


def _stream_curve(site: Site, reads: Sequence[LinearMoments], refit: bool) -> Curve:
    """A channel of the stream goes from all its readers at once; each is refitted on the channels that are left."""
    eyes = [torch.eye(site.units, dtype=torch.float64, device=read.mean.device) for read in reads]
    if not refit:
        return score_curve(site, np.sum([_alone(eye, read) for eye, read in zip(eyes, reads, strict=True)], axis=0))
    return eliminate([Elimination(eye, read) for eye, read in zip(eyes, reads, strict=True)], 1, site.units)


def _alone(weight: Tensor, moments: LinearMoments) -> np.ndarray:
    """Damage of each unit by itself, in nats per image, when nothing is refitted but the mean."""
    power = ((moments.gradient @ weight) * weight).sum(0) * moments.covariance.diagonal()
    return (moments.tokens / 2 * power).cpu().numpy()


def _heads_curve(order: np.ndarray, weight: Tensor, moments: LinearMoments, refit: bool) -> Curve:
    """Whole heads go from one writer, the last of `order` first."""
    if not refit:
        lost = _alone(weight, moments).reshape(len(order), -1).sum(1)[order]
        return Curve(order[None], np.append(lost[::-1].cumsum()[::-1], 0.0))
    state = Elimination(weight, moments)
    width = weight.shape[1] // len(order)
    damage = [0.0]
    for head in order[::-1]:
        damage.append(float(state.remove_((state.alive // width == int(head)).nonzero().squeeze(1)).sum()))
    return Curve(order[None], np.cumsum(damage)[::-1].copy())


def _logit_curve(site: Site, moments: LogitMoments) -> Curve:
    """Dimensions of Q and K go one by one; what they damage adds up."""
    power = moments.activation.diagonal(dim1=1, dim2=2) * moments.gradient.diagonal(dim1=1, dim2=2)
    return score_curve(site, (moments.tokens / 2 * power).cpu().numpy())


def score_curve(site: Site, scores: np.ndarray) -> Curve:
    """Where nothing better is known: units go in the order of their scores, which add up."""
    by_group = scores.reshape(site.groups, -1)
    order = np.argsort(-by_group, axis=1, kind="stable")
    kept = np.take_along_axis(by_group, order, 1).clip(min=0).sum(0)
    return Curve(order, np.append(kept[::-1].cumsum()[::-1], 0.0))


def kept_units(curves: Mapping[str, Curve], widths: Mapping[str, int], sites: Sequence[Site]) -> dict[str, np.ndarray]:
    """Site name -> units that stay at `widths`, as `cut` takes them."""
    keep = {}
    for site in sites:
        width, order = widths[site.name], curves[site.name].order
        if width or site.axis == "block":  # the other sites of a block that goes are gone with it
            runs = np.arange(len(order))[:, None] * order.shape[1]
            keep[site.name] = np.sort((runs + order[:, :width]).ravel())
    return keep
