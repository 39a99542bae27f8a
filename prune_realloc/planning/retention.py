"""What a plan keeps of the source, at the places of the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, site_beside, site_place
from prune_realloc.planning.shapes import Place, base_config, places_of
from prune_realloc.recipe.plan import SitePlan
from prune_realloc.recipe.target import Target

COMPONENTS = ("qk", "v", "ffn")
"""What a block of the target has inside."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Share of the source's units that pruning kept."""

    component: Mapping[tuple[str, Place], float]
    """Share kept of Q/K, V and FFN, in the part of the source that lies at the place's depth; of those in `whole`."""
    stage: tuple[float, ...]
    """For the channels of each stage: the share of the source's stream there, times the share of all components there
    over that of all everywhere."""
    whole: Mapping[str, float]
    """Share kept of each component, everywhere; a component that the source has nowhere is missing."""
    elsewhere: frozenset[tuple[str, Place]] = frozenset()
    """Where the source has the component, but not at that depth: its share is that of everywhere."""


def retention(sites: Mapping[str, SitePlan], target: Target) -> Retention:
    """Read a plan at the depths of the target's stages or blocks.

    A block of the source belongs to the parts of the target that lie at the same relative depth; one that lies in two
    parts counts in both, by its share.

    Raises:
        InputError: the plan has no attention or no FFN, or nothing at some depth.
    """
    source = _Source(sites)
    whole = {name: share for name in COMPONENTS if (share := source.share((name,), 0, 1)) is not None}
    _check_shown(sites, whole)
    depths = base_config(target).depth
    component: dict[tuple[str, Place], float] = {}
    elsewhere = set()
    for place in places_of(target):
        start, end = place.first / sum(depths), (place.first + place.blocks) / sum(depths)
        for name in whole:
            share = source.share((name,), start, end)
            if share is None:
                elsewhere.add((name, place))
            component[name, place] = whole[name] if share is None else share
    stage = _stages(source, _streams(sites), depths)
    return Retention(component=component, stage=stage, whole=whole, elsewhere=frozenset(elsewhere))


def check_measured(sites: Mapping[str, SitePlan]) -> None:
    """Raises InputError where every site kept the same share, so that nothing is said of what matters."""
    source = _Source(sites)
    shares = {round(kept / had, 6) for kept, had in source.units.values() if had}
    if len(shares) == 1 and len({*_streams(sites)}) == 1:
        raise InputError(
            f"source: pruning kept {shares.pop():.1%} of every site, so nothing was measured; give an analysis, or a "
            "plan with allocation: damage"
        )


def _check_shown(sites: Iterable[str], shown: Iterable[str]) -> None:
    """Raises InputError where there is no attention, or no FFN, to read."""
    lacks = [
        what
        for what, names in (("attention (qk or v)", {"qk", "v"}), ("FFN (ffn or hidden)", {"ffn"}))
        if names.isdisjoint(shown)
    ]
    if lacks:
        axes = ", ".join(dict.fromkeys(site_place(name)[0] for name in sites))
        raise InputError(
            f"source: it has no {' and no '.join(lacks)} that could be cut, only {axes}; an EfficientViT follows from "
            "what pruning keeps of both, give a network that has them"
        )


def _stages(source: _Source, streams: Sequence[float], depths: Sequence[int]) -> tuple[float, ...]:
    """What `Retention.stage` says, for stages of so many blocks."""
    everything = source.share(COMPONENTS, 0, 1)
    if not everything:
        raise InputError("pruning kept nothing of the source, so it shows nothing; raise its budget")
    stage, first = [], 0
    for index, blocks_here in enumerate(depths):
        start, end = first / sum(depths), (first + blocks_here) / sum(depths)
        here = source.share(COMPONENTS, start, end)
        if here is None:
            raise InputError(
                f"the source has no {', '.join(INNER_AXES)} from {start:.0%} to {end:.0%} of its depth; reallocation "
                "needs one of them in every part"
            )
        stage.append(_stream_share(streams, index / len(depths), (index + 1) / len(depths)) * here / everything)
        first += blocks_here
    return tuple(stage)


class _Source:
    """What was kept in each block of the source."""

    def __init__(self, sites: Mapping[str, SitePlan]) -> None:
        self.units: dict[tuple[str, int], tuple[float, float]] = {}
        """Axis and block -> (kept, had), of all heads and sites."""
        for name in sites:
            axis, block = site_place(name)
            if axis in INNER_AXES and block is not None:
                kept, had = self.units.get((axis, block), (0.0, 0.0))
                more = _units(sites, name)
                self.units[axis, block] = kept + more[0], had + more[1]
        self.blocks = 1 + max((block for _, block in map(site_place, sites) if block is not None), default=-1)

    def share(self, components: Sequence[str], start: float, end: float) -> float | None:
        """Share of the units of `components` that stays from `start` to `end` of the depth; None where there are none.

        Where no FFN lies, the hidden channels of an MBConv are the FFN.
        """
        kept, had = 0.0, 0.0
        for component in components:
            units = self._between(component, start, end)
            if component == "ffn" and not units[1]:
                units = self._between("hidden", start, end)
            kept, had = kept + units[0], had + units[1]
        return kept / had if had else None

    def _between(self, axis: str, start: float, end: float) -> tuple[float, float]:
        """(kept, had) of an axis there."""
        kept = had = 0.0
        for (own, block), units in self.units.items():
            overlap = min(end, (block + 1) / self.blocks) - max(start, block / self.blocks)
            if own == axis and overlap > 1e-12:
                kept, had = kept + overlap * units[0], had + overlap * units[1]
        return kept, had


def _units(sites: Mapping[str, SitePlan], name: str) -> tuple[float, float]:
    """(kept, had) of one site, of all its heads; what a head loses counts as lost of its Q/K and V."""
    site, groups = sites[name], sites[name].groups or 1
    heads = sites.get(site_beside(name, "heads")) if site_place(name)[0] in ("qk", "v") else None
    counts = (groups, groups) if heads is None else (heads.width, heads.of)
    return site.width * counts[0], site.of * counts[1]


def _streams(sites: Mapping[str, SitePlan]) -> list[float]:
    """Share kept of each residual stream, in the order of the source's stages."""
    return [site.width / site.of for name, site in sites.items() if site_place(name)[0] == "embed"] or [1.0]


def _stream_share(streams: Sequence[float], start: float, end: float) -> float:
    """Mean share of the streams from `start` to `end` of the depth, where all are equally deep."""
    count, total = len(streams), 0.0
    for index, share in enumerate(streams):
        total += share * max(0.0, min(end, (index + 1) / count) - max(start, index / count))
    return total / (end - start)
