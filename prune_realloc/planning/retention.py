"""What a plan keeps of the source, at the places of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_beside, site_name, site_place
from prune_realloc.planning.shapes import Place, base_config, places_of
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Target

_COMPONENTS = ("qk", "v", "ffn")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Share of the source's units that pruning kept."""

    component: Mapping[tuple[str, Place], float]
    """Share kept of Q/K, V and FFN, in the part of the source that lies at the place's depth."""
    stage: tuple[float, ...]
    """For the channels of each stage: the share of the source's stream there, times the share of all components there
    over that of all everywhere."""
    whole: Mapping[str, float]
    """Share kept of each component, everywhere."""


def retention(sites: Mapping[str, SitePlan], target: Target) -> Retention:
    """Read a plan at the depths of the target's stages or blocks.

    A block of the source belongs to the parts of the target that lie at the same relative depth; one that lies in two
    parts counts in both, by its share.

    Raises:
        InputError: the plan lacks Q/K, V or FFN.
    """
    blocks = 1 + max((block for _, block in map(site_place, sites) if block is not None), default=-1)
    missing = [axis for axis in _COMPONENTS if not any(site_name(axis, b) in sites for b in range(blocks))]
    if missing:
        raise InputError(
            f"the analysis has no {' and no '.join(missing)}; reallocation needs qk, v and ffn of a Vision Transformer"
        )
    places, depths = places_of(target), base_config(target).depth
    depth = sum(depths)
    component: dict[tuple[str, Place], float] = {}
    for place in places:
        start, end = place.first / depth, (place.first + place.blocks) / depth
        for axis in _COMPONENTS:
            component[axis, place] = _share(sites, blocks, (axis,), start, end)
    whole: dict[str, float] = {axis: _share(sites, blocks, (axis,), 0, 1) for axis in _COMPONENTS}
    stage = _stages(sites, blocks, depths)
    return Retention(component=component, stage=stage, whole=whole)


def _stages(sites: Mapping[str, SitePlan], blocks: int, depths: Sequence[int]) -> tuple[float, ...]:
    """What `Retention.stage` says, for stages of so many blocks."""
    everything, streams = _share(sites, blocks, _COMPONENTS, 0, 1), _streams(sites)
    if not everything:
        raise InputError("pruning kept nothing of the source, so it shows nothing; raise its budget")
    stage, first = [], 0
    for index, blocks_here in enumerate(depths):
        here = _share(sites, blocks, _COMPONENTS, first / sum(depths), (first + blocks_here) / sum(depths))
        stage.append(_stream_share(streams, index / len(depths), (index + 1) / len(depths)) * here / everything)
        first += blocks_here
    return tuple(stage)


def _share(sites: Mapping[str, SitePlan], blocks: int, axes: Sequence[str], start: float, end: float) -> float:
    """Share of the units of `axes` that stays from `start` to `end` of the depth of a source with so many blocks."""
    kept = of = 0.0
    for block in range(blocks):
        overlap = min(end, (block + 1) / blocks) - max(start, block / blocks)
        for axis in axes if overlap > 1e-12 else ():
            units = _units(sites, axis, block)
            kept, of = kept + overlap * units[0], of + overlap * units[1]
    if not of:
        raise InputError(
            f"the source has no {' and no '.join(axes)} from {start:.0%} to {end:.0%} of its "
            "depth; reallocation needs them in every block"
        )
    return kept / of


def _units(sites: Mapping[str, SitePlan], axis: str, block: int) -> tuple[float, float]:
    """(kept, had) in one block, of all heads and sites; what a head loses counts as lost of its Q/K and V."""
    kept = had = 0.0
    for name in takewhile(sites.__contains__, (site_name(axis, block, nth=nth) for nth in count())):
        site, groups = sites[name], sites[name].groups or 1
        heads = sites.get(site_beside(name, "heads")) if axis in ("qk", "v") else None
        kept += site.width * (groups if heads is None else heads.width)
        had += site.of * (groups if heads is None else heads.of)
    return kept, had


def _streams(sites: Mapping[str, SitePlan]) -> list[float]:
    """Share kept of each residual stream, in the order of the source's stages."""
    return [site.width / site.of for name, site in sites.items() if site_place(name)[0] == "embed"] or [1.0]


def _stream_share(streams: Sequence[float], start: float, end: float) -> float:
    """Mean share of the streams from `start` to `end` of the depth, where all are equally deep."""
    count, total = len(streams), 0.0
    for index, share in enumerate(streams):
        total += share * max(0.0, min(end, (index + 1) / count) - max(start, index / count))
    return total / (end - start)
