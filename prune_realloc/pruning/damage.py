"""What each width of a site costs, in nats per image, after rotation and refit: the curves that the planner reads.

A writer (proj, fc2) with weights W reads units x with covariance C; G is the second moment of the loss gradient at
its output, N the tokens of an image. If the units P go and W is refitted on the rest, the output's error has the
covariance W_P S W_P', where S = ([C^-1]_PP)^-1 is what of x_P the rest cannot tell, and to second order the loss
grows by

    N / 2 tr(G W_P S W_P')

(Hassibi & Stork, Optimal Brain Surgeon, NeurIPS 1993, for the layer's own quadratic error; the Fisher information of
the tokens, taken as independent, in place of the Hessian). Units go one by one, the cheapest first. A channel of the
residual stream goes from all layers that read it at once; there W is the identity and G the gradient's at the input.
A convolution is a linear layer on patches: a unit of a writer is all columns of its channel, and goes with all of them.

Q and K meet in logits only. A q/k dimension d adds q_d k_d, so taking it out changes the loss through q_d g_d, g
being the loss gradient at q: N / 2 E[q_d^2] E[g_d^2], in the basis that makes both moments diagonal
(`rotate.rotated`).
"""

# U units that a writer reads, H heads, D stream channels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Site, Structure, site_name
from prune_realloc.pruning.elimination import Curve, Elimination, eliminate
from prune_realloc.pruning.layers import kernel_entries, layer_at, matrix
from prune_realloc.pruning.moments import LayerMoments, LinearMoments, LogitMoments
from prune_realloc.pruning.sites import stream_sites


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
        scores: whole heads go in the order of their scores, the lowest first. Where the units of a site are read by
            several layers, or by none that writes to a stream, nothing better is known than scores that add up.
        refit: False for cuts that only shift means: units cost what each costs alone, N / 2 w' G w C_pp.
    """
    by_name = {site.name: site for site in sites}
    curves = {name: _logit_curve(by_name[name], read) for name, read in moments.logits.items()}
    for name, site in stream_sites(sites).items():
        layers = [layer for layer, stream in structure.readers().items() if stream == name]
        reads = [read for layer in layers for read in _channel_reads(site, layer, moments.readers[layer])]
        curves[name] = _stream_curve(site, reads, refit)
    lost: dict[str, float] = dict.fromkeys((site.name for site in sites if site.axis == "block"), 0.0)
    for branch in structure.branches:
        site = by_name[branch.site]
        if site.name in curves:  # several layers read its units
            continue
        writer = _Writer.of(model, branch, site, moments.writers[site.name])
        curves[site.name] = _writer_curve(site, writer, refit) if writer else score_curve(site, scores[site.name])
        if (block := site_name("block", branch.block)) in lost:
            lost[block] += curves[site.name].damage[0]
        heads = by_name.get(site_name("heads", branch.block))
        if site.axis == "v" and heads is not None and writer:
            order = np.argsort(-scores[heads.name], kind="stable")
            curves[heads.name] = _heads_curve(order, writer, refit)
    curves |= {name: Curve(np.array([[0]]), np.array([damage, 0.0])) for name, damage in lost.items()}
    return {site.name: curves.get(site.name) or score_curve(site, scores[site.name]) for site in sites}


@dataclass(frozen=True, eq=False)
class _Writer:
    """The layer that reads the units of a site and writes to a stream."""

    weight: Tensor
    """Its matrix, shape (D, inputs)."""
    moments: LinearMoments
    columns: Tensor
    """Of the matrix, those of each unit, shape (units, E)."""

    @classmethod
    def of(cls, model: nn.Module, branch: Branch, site: Site, moments: LinearMoments) -> _Writer | None:
        """None where not all units of the site go through this layer: moments are kept for one layer a site."""
        layer = layer_at(model, branch.writer)
        part = next(part for part in site.slices if (part.parameter, part.dim) == (f"{branch.writer}.weight", 1))
        if part.units is not None:
            return None
        index, entries = torch.as_tensor(part.index, device=layer.weight.device), kernel_entries(layer)
        columns = index[..., None] * entries + torch.arange(entries, device=index.device)
        return cls(matrix(layer).double(), moments, columns.flatten(1))

    def elimination(self) -> Elimination:
        return Elimination(self.weight, self.moments, self.columns)

    def alone(self) -> np.ndarray:
        """Damage of each unit by itself, in nats per image, when nothing is refitted but the mean."""
        if self.columns.shape[1] == 1:
            return _alone(self.weight, self.moments)[self.columns[:, 0].cpu().numpy()]
        own, costly = self.weight[:, self.columns], (self.moments.gradient @ self.weight)[:, self.columns]
        shared = self.moments.covariance[self.columns[:, :, None], self.columns[:, None]]
        return (self.moments.tokens / 2 * torch.einsum("due,duf,uef->u", costly, own, shared)).cpu().numpy()


def _writer_curve(site: Site, writer: _Writer, refit: bool) -> Curve:
    """Units of the site go from the one layer that reads them."""
    if not refit:
        return score_curve(site, writer.alone())
    return eliminate([writer.elimination()], site.groups, site.width)


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
    """Damage of each column by itself, in nats per image, when nothing is refitted but the mean."""
    power = ((moments.gradient @ weight) * weight).sum(0) * moments.covariance.diagonal()
    return (moments.tokens / 2 * power).cpu().numpy()


def _heads_curve(order: np.ndarray, writer: _Writer, refit: bool) -> Curve:
    """Whole heads go from one writer, the last of `order` first."""
    if not refit:
        lost = writer.alone().reshape(len(order), -1).sum(1)[order]
        return Curve(order[None], np.append(lost[::-1].cumsum()[::-1], 0.0))
    state = writer.elimination()
    width = len(state.alive) // len(order)
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
