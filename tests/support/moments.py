"""Moments of the tiny networks, for the tests of moments, damage and compensation."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from prune_realloc.core.structure import Site, Structure
from prune_realloc.data.batches import Batch
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.damage import damage_curves
from prune_realloc.pruning.elimination import Curve
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.moments import GradientWatch, LayerMoments, layer_moments
from prune_realloc.pruning.objectives import objective_for
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.rotate import rotated
from prune_realloc.pruning.sites import find_sites
from support.networks import VARIANTS, build, randomise_

LAYOUTS = (*VARIANTS, "gated")


@dataclasses.dataclass(frozen=True)
class Case:
    model: Any
    """LayerScale is folded; cached, so it must be left as it is."""
    structure: Structure
    sites: tuple[Site, ...]
    moments: LayerMoments

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def rotated(self) -> "Case":
        turned = rotated(self.model, self.structure, self.moments)
        return dataclasses.replace(self, model=turned.network, moments=turned.moments)

    @property
    def token_weights(self) -> dict[str, Tensor]:
        return self.moments.token_weights()


def built(layout: str, **args: Any) -> Any:
    """Any variant of conftest, and attention with a gate, which no timm name has."""
    if layout != "gated":
        return build(layout, **args)
    model = build(**args)
    for block in model.blocks:
        block.attn = Attention(model.embed_dim, block.attn.num_heads, qkv_bias=True, gated=True)
    return randomise_(model)


def images_of(count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def batches_of(images: Tensor, size: int = 8) -> list[Batch]:
    """The label of image b is b modulo 5."""
    positions = torch.arange(len(images))
    parts = zip(positions.split(size), images.split(size), (positions % 5).split(size), strict=True)
    return [Batch(*part, checksums=()) for part in parts]


def draws_of(count: int) -> Tensor:
    return torch.linspace(0.05, 0.95, count, dtype=torch.float64)


def measured(model: nn.Module, batches: Sequence[Batch], amp: bool = False, labelled: bool | None = None) -> Case:
    structure, sites = family_of(model).describe(model), find_sites(model)
    watch = GradientWatch(model, structure)
    draws = draws_of(sum(len(batch.images) for batch in batches))
    labelled = model.num_classes > 0 if labelled is None else labelled
    with watch.attached(batches) as watched:
        objective = objective_for(model, draws.__getitem__, labelled=labelled, loss=None, slopes=True)
        gate_moments(model, sites, watched, objective=objective, amp=amp)
    return Case(model, structure, sites, layer_moments(model, structure, watch, batches))


@cache
def case_of(layout: str, count: int = 24, dtype: torch.dtype = torch.float64) -> Case:
    """Moments over the first `count` images of `images_of(count)`."""
    return measured(folded(built(layout).to(dtype)), batches_of(images_of(count, dtype=dtype)))


def folded(model: Any) -> Any:
    with torch.no_grad():
        family_of(model).fold_scales_(model)
    return model


def halves(case: Case, orders: Any, *axes: str) -> dict[str, np.ndarray]:
    """Half the width of every site of `axes`, in the order of its curve; of blocks, the second goes."""
    keep = {}
    for site in case.sites:
        if site.axis == "block" and site.axis in axes and site.block == 1:
            keep[site.name] = np.arange(0)
        elif site.axis != "block" and site.axis in axes:
            runs = np.arange(site.groups)[:, None] * site.width
            keep[site.name] = np.sort((runs + orders[site.name].order[:, : max(1, site.width // 2)]).ravel())
    return keep


DEAD = {  # weights of the last block that are zero -> the sites that the loss cannot depend on
    "norms": {"heads", "qk", "v", "ffn", "block"},
    "values": {"heads", "qk", "v"},
    "hidden": {"ffn"},
    "everything": {"heads", "qk", "v", "ffn", "block"},
}


def kill_(block, part):
    with torch.no_grad():
        if part == "norms":
            block.norm1.weight.zero_()
            block.norm2.weight.zero_()
        elif part == "values":
            block.attn.qkv.weight[96:].zero_()
        elif part == "hidden":
            block.mlp.fc1.weight.zero_()
        else:
            for p in block.parameters():
                p.zero_()


@cache
def rotated_case(layout: str, count: int = 24) -> tuple[Case, dict[str, Curve]]:
    """A network in the basis to be cut in, and its curves."""
    case = case_of(layout, count).rotated()
    return case, curves_of(case)


def curves_of(case: Case) -> dict[str, Curve]:
    """Of all sites, by scores that rise from unit to unit."""
    scores = {site.name: np.arange(site.units) for site in case.sites}
    return damage_curves(case.model, case.sites, case.structure, case.moments, scores)


def error(network: Any, source: Any, images: Tensor) -> float:
    """Mean squared difference of the outputs."""
    with torch.no_grad():
        return float((network(images) - source(images)).square().mean())


def refitted(
    case: Case, keep: Keep, *, images: int = 24, size: int = 8, ridge: bool = True, weights: bool = True
) -> Any:
    """The case's network, cut to `keep` and fitted on so many images."""
    pruned = cut(case.model, case.sites, keep)
    dtype = next(case.model.parameters()).dtype
    batches = batches_of(images_of(images, dtype=dtype), size)
    refit_(pruned, case.model, case.sites, keep, case.token_weights if weights else {}, batches, ridge=ridge)
    return pruned


def gradient_of_unit(network, site, unit, images, labels):
    """That of the summed loss, at a factor of 1 on one unit of a site, at all its gates."""
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    handles = []
    for gate in site.gates:

        def scaled(x, gate=gate):
            here = torch.zeros(x.shape[gate.dim], dtype=x.dtype)
            here[torch.as_tensor(gate.index[unit])] = 1
            return (x.movedim(gate.dim, -1) * (1 + (factor - 1) * here)).movedim(-1, gate.dim)

        module = network.get_submodule(gate.module)
        if gate.side == "input":
            handles.append(module.register_forward_pre_hook(lambda _, x, f=scaled: (f(x[0]),)))
        else:
            handles.append(module.register_forward_hook(lambda _, __, out, f=scaled: f(out)))
    F.cross_entropy(network(images), labels, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return float(factor.grad)
