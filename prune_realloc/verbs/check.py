"""What `analyze --check` tries: does the ranking of units foretell what is lost without them?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, Site
from prune_realloc.data.batches import Batch
from prune_realloc.data.stream import ImageStream
from prune_realloc.families.host import adopted
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.sites import find_sites
from prune_realloc.recipe.document import Data, Source
from prune_realloc.results.checked import Check, Tried
from prune_realloc.results.evaluate import divergence, log_probabilities
from prune_realloc.results.opening import Reading, open_network, open_stream, with_shipped_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import count_classes, evaluation_mode

_SITES, _SHARES, _DRAWS = 6, (0.75, 0.5, 0.25), 3


@dataclass(frozen=True, kw_only=True)
class Checkable:
    """A network and images that a ranking can be tried on."""

    net: nn.Module
    stream: ImageStream
    seed: int


def checkable(source: Source, data: Data, *, batch_size: int, workers: int = 0) -> Checkable:
    """Open what the scores are made of once more, before they are made.

    Raises:
        InputError: the network or the images cannot be used.
    """
    net = adopted(open_network(source))
    data = with_shipped_images(data, source)
    if data.name is None or not count_classes(net):
        raise InputError("check needs a classifier and images; name them with --data, or leave --check out")
    stream = open_stream(net, data, Reading(batch_size=batch_size, workers=workers), min(data.samples or 256, 256))
    return Checkable(net=net, stream=stream, seed=data.seed)


def check(opened: Checkable, analysis: Analysis, *, device: str = "auto") -> Check:
    """Try the scores of `analysis` on the network and the images that it was made of."""
    net, stream = opened.net, opened.stream
    with evaluation_mode(net, device=pick_device(device)), out_of_memory_named(stream.loading["batch_size"]):
        return tried_on(net, find_sites(net), analysis.scores, stream, seed=opened.seed)


@torch.no_grad()
def tried_on(
    net: nn.Module, sites: Sequence[Site], scores: Mapping[str, np.ndarray], batches: Iterable[Batch], *, seed: int
) -> Check:
    """Mask a few sites at a few widths in three orders.

    Args:
        net: a classifier in evaluation mode.
        scores: site -> one for each unit.
        batches: all are used and kept in memory.
    """
    device = next(net.parameters()).device
    images = [batch.images.to(device) for batch in batches]
    whole = [log_probabilities(net, part) for part in images]
    inner = [site for site in sites if site.axis in INNER_AXES and site.width > 1]
    picked = [inner[i] for i in np.unique(np.linspace(0, len(inner) - 1, _SITES).round().astype(int))] if inner else []
    draw = np.random.default_rng(seed)

    def lost(site: Site, gone: np.ndarray) -> float:
        with masked(net, site, gone.tolist()):
            without = [log_probabilities(net, part) for part in images]
        return _mean_kl(whole, without)

    found = []
    for site in picked:
        order = np.argsort(scores[site.name], kind="stable")
        for share in _SHARES:
            kept = max(1, round(share * site.units))
            less = site.units - kept
            random = [lost(site, draw.permutation(site.units)[:less]) for _ in range(_DRAWS)]
            found.append(
                Tried(
                    site=site.name,
                    kept=kept,
                    of=site.units,
                    predicted=float(scores[site.name][order[:less]].sum()),
                    ranking=lost(site, order[:less]),
                    reverse=lost(site, order[kept:]),
                    random=float(np.mean(random)),
                )
            )
    return Check(
        tried=tuple(found),
        samples=sum(map(len, images)),
        seed=seed,
        sorted_difference=_difference(whole[0], log_probabilities(sorted_units(net, picked, scores), images[0])),
        cut_difference=max((_cut_against_mask(net, sites, site, scores, images[0]) for site in picked), default=0.0),
    )


def _mean_kl(whole: Sequence[Tensor], without: Sequence[Tensor]) -> float:
    return float(torch.cat([*map(divergence, whole, without)]).mean())


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def sorted_units(net: nn.Module, sites: Iterable[Site], scores: Mapping[str, np.ndarray]) -> nn.Module:
    """A copy in which the units of each site lie in the order of their scores, the best of each group first."""
    ordered = copy.deepcopy(net)
    tensors = dict(ordered.named_parameters()) | dict(ordered.named_buffers())
    for site in sites:
        order = _by_group(site, scores[site.name]).ravel()
        for part in site.slices:
            if part.units is not None:
                continue
            tensor, index = tensors[part.parameter], part.index
            moved = torch.as_tensor(index[order].ravel(), device=tensor.device)
            taken = tensor.detach().index_select(part.dim, moved)
            tensor.detach().index_copy_(part.dim, torch.as_tensor(index.ravel(), device=tensor.device), taken)
    return ordered


def _by_group(site: Site, scores: np.ndarray) -> np.ndarray:
    """The units, (groups, width), best first."""
    order = np.argsort(-scores.reshape(site.groups, -1), axis=1, kind="stable")
    return np.asarray(order + np.arange(site.groups)[:, None] * site.width)


def _cut_against_mask(
    net: nn.Module, sites: Sequence[Site], site: Site, scores: Mapping[str, np.ndarray], images: Tensor
) -> float:
    kept = np.sort(_by_group(site, scores[site.name])[:, : max(1, site.width // 2)].ravel())
    with masked(net, site, np.setdiff1d(np.arange(site.units), kept).tolist()):
        expected = log_probabilities(net, images)
    return _difference(expected, log_probabilities(cut(net, sites, {site.name: kept}), images))
