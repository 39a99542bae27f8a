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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Axis, Crossing, Site, Structure, site_name
from prune_realloc.pruning.elimination import Curve, Elimination, eliminate
from prune_realloc.pruning.linear import kernel_entries, layer_at, matrix
from prune_realloc.pruning.moments import LayerMoments, LinearMoments, LogitMoments
from prune_realloc.pruning.sites import heads_beside, stream_sites

_WRITTEN: tuple[Axis, ...] = ("v", "ffn", "hidden")
"""Axes whose units a block writes to the stream by."""


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
        scores: whole heads go in the order of their scores, the lowest first. Where no layer that can be fitted reads
            the units of a site, nothing better is known than scores that add up.
        refit: False for cuts that only shift means: units cost what each costs alone, N / 2 w' G w C_pp.
    """
    by_name = {site.name: site for site in sites}
    layers = _layers(model, by_name, structure, moments)
    curves = {name: _logit_curve(by_name[name], read) for name, read in moments.logits.items()}
    for name, own in layers.items():
        curve = None if _is_query_too(by_name[name]) else _curve(by_name[name], own, refit)
        curves[name] = curve or score_curve(by_name[name], scores[name])
        heads = heads_beside(by_name, name)
        if by_name[name].axis == "v" and heads is not None and len(own) == 1:
            order = np.argsort(-scores[heads.name], kind="stable")
            curves[heads.name] = _heads_curve(order, own[0], refit)
    lost: dict[str, float] = {}
    for block, damage in _whole_branches(model, by_name, structure, moments, curves):
        lost[block] = lost.get(block, 0.0) + damage
    curves = {site.name: curves.get(site.name) or score_curve(site, scores[site.name]) for site in sites}
    lost = _of_units(sites, curves) | lost
    return curves | {name: Curve(np.array([[0]]), np.array([damage, 0.0])) for name, damage in lost.items()}


def _is_query_too(site: Site) -> bool:
    """Do values go with queries, as behind a grouped convolution of linear attention? No refit makes up for that."""
    return site.axis == "v" and {gate.side for gate in site.gates} == {"input", "output"}


def _of_units(sites: Sequence[Site], curves: Mapping[str, Curve]) -> dict[str, float]:
    """Name of a block -> what all units in it are worth: for one whose branches are not known, no more can be said."""
    found: dict[str, float] = {}
    for site in sites:
        if site.axis in _WRITTEN and site.block is not None:
            name = site_name("block", site.block)
            found[name] = found.get(name, 0.0) + float(curves[site.name].damage[0])
    return {site.name: found[site.name] for site in sites if site.name in found}


def _whole_branches(
    model: nn.Module,
    by_name: Mapping[str, Site],
    structure: Structure,
    moments: LayerMoments,
    curves: Mapping[str, Curve],
) -> Iterator[tuple[str, float]]:
    """(Name of the block, damage of all that its units add to the stream), once for each site in it."""
    seen: set[str] = set()
    for key, each in structure.writers().items():
        if isinstance(each, Crossing) or each.site in seen:
            continue
        block = site_name("block", each.block)
        if by_name[each.site].axis == "embed":  # its units are the stream's, which stay when the block goes
            weight, read = matrix(layer_at(model, each.writer)).double(), moments.writers[key]
            yield block, float(read.tokens / 2 * ((read.gradient @ weight) * (weight @ read.covariance)).sum())
        else:
            seen.add(each.site)
            yield block, curves[each.site].damage[0]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer from whose inputs units of a site go."""

    weight: Tensor
    """What an input does to what the layer puts out, shape (D, inputs); in the network's precision."""
    moments: LinearMoments
    columns: Tensor
    """Of the weight, those of each unit, shape (units, E)."""
    units: tuple[int, ...]
    """Those of the site that the layer reads."""

    def elimination(self) -> Elimination:
        return Elimination(self.weight.double(), self.moments, self.columns)

    def alone(self) -> np.ndarray:
        """Damage of each unit by itself, in nats per image, when nothing is refitted but the mean."""
        weight, moments = self.weight.double(), self.moments
        costly = moments.gradient @ weight
        if self.columns.shape[1] == 1:
            power = ((costly * weight).sum(0) * moments.covariance.diagonal())[self.columns[:, 0]]
        else:
            shared = moments.covariance[self.columns[:, :, None], self.columns[:, None]]
            power = torch.einsum("due,duf,uef->u", costly[:, self.columns], weight[:, self.columns], shared)
        return (moments.tokens / 2 * power).cpu().numpy()


def _layers(
    model: nn.Module, by_name: Mapping[str, Site], structure: Structure, moments: LayerMoments
) -> dict[str, list[_Layer]]:
    """Name of a site -> the layers that read its units: those of the streams, then those that write to one."""
    found: dict[str, list[_Layer]] = {name: [] for name in stream_sites(by_name.values())}
    for layer, stream in structure.readers().items():
        found[stream] += _stream_layers(by_name[stream], layer, moments.readers[layer])
    for key, each in structure.writers().items():
        found.setdefault(each.site, []).append(_writer(model, by_name[each.site], each.writer, moments.writers[key]))
    return found


def _writer(model: nn.Module, site: Site, name: str, moments: LinearMoments) -> _Layer:
    """A layer that reads units of a site and writes to a stream."""
    layer = layer_at(model, name)
    part = next(part for part in site.slices if (part.parameter, part.dim) == (f"{name}.weight", 1))
    index, entries = torch.as_tensor(part.index, device=layer.weight.device), kernel_entries(layer)
    columns = index[..., None] * entries + torch.arange(entries, device=index.device)
    units = np.arange(site.units) if part.units is None else part.units
    return _Layer(matrix(layer), moments, columns.flatten(1), tuple(units.tolist()))


def _stream_layers(site: Site, layer: str, moments: LinearMoments) -> list[_Layer]:
    """A reader of the stream, refitted on the channels that are left; what it reads is all that matters of it."""
    part = next(part for part in site.slices if (part.parameter, part.dim) == (f"{layer}.weight", 1))
    units = tuple(range(site.units)) if part.units is None else tuple(part.units.tolist())
    eye = torch.eye(len(units), dtype=torch.float64, device=moments.mean.device)
    column = torch.arange(len(units), device=eye.device)[:, None]
    return [_Layer(eye, read, column, units) for read in _channel_reads(part.index, moments)]


def _curve(site: Site, layers: Sequence[_Layer], refit: bool) -> Curve | None:
    """Units of the site go from all layers that read them; None where there are none or they share some units."""
    if not layers:
        return None
    if not refit:
        alone = np.zeros(site.units)
        for layer in layers:
            alone[list(layer.units)] += layer.alone()
        return score_curve(site, alone)
    alike: dict[tuple[int, ...], list[Elimination]] = {}
    for layer in layers:
        alike.setdefault(layer.units, []).append(layer.elimination())
    runs = sorted(alike)
    if sum(runs, ()) != tuple(range(site.units)) or any(len(run) % site.width for run in runs):
        return None
    parts = [eliminate(alike[run], len(run) // site.width, site.width) for run in runs]
    return Curve(np.concatenate([part.order for part in parts]), np.sum([part.damage for part in parts], axis=0))


def _channel_reads(inputs: np.ndarray, read: LinearMoments) -> list[LinearMoments]:
    """The moments of a layer's input by channel of the stream: one for each token of which it reads a channel.

    Patch merging reads four side by side; what one of them tells of another is left out, so the damage is an upper one.

    Args:
        inputs: places of each unit among the layer's inputs, shape (units, entries).
    """
    if np.array_equal(inputs[:, 0], np.arange(len(read.mean))):
        return [read]
    return [
        LinearMoments(read.tokens, read.weight, read.gradient[c][:, c], read.mean[c], read.covariance[c][:, c])
        for c in torch.as_tensor(inputs.T, device=read.mean.device)
    ]


def _heads_curve(order: np.ndarray, writer: _Layer, refit: bool) -> Curve:
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
