"""Least damage at a budget, with the widths of the streams given: a multiple-choice knapsack over the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune_realloc.planning.parts import Block, Part

_GRID = 50_000
"""Steps of cost, as a part of the source's: the resolution of the dynamic program."""


@dataclass(frozen=True, kw_only=True)
class _PartStep:
    """One part in the dynamic program: its choices, and what was reached before it."""

    part: Part
    numbers: np.ndarray
    """Its choices that nothing cheaper is better than, the cheapest first."""
    grains: np.ndarray
    """Their costs."""
    before: np.ndarray
    """Least damage by the grains that are spent, of all that comes before."""


@dataclass(frozen=True, kw_only=True)
class _BlockStep:
    """One block in the dynamic program."""

    block: Block
    parts: Sequence[_PartStep]
    before: np.ndarray
    """Least damage by the grains that are spent, of all blocks before."""
    stays: np.ndarray
    """The same with this block, where it stays."""


def knapsack(
    blocks: Sequence[Block], costs: Sequence[Sequence[np.ndarray]], limit: int, enough: int, source: int
) -> dict[str, int] | None:
    """Widths of least total damage within `limit`; None if there are none.

    Costs are counted in whole grains of the source's, rounded up, so what is found fits; the grain does not depend on
    the limit, so more budget never finds worse. Only where whole blocks go can the least damage leave more of the
    budget than one multiple; if it spends less than `enough`, it is the least of what spends enough, if anything does.
    """
    least = np.full(limit * _GRID // source + 1, np.inf)  # damage so far, by the grains that are spent
    least[0] = 0.0
    trail = []
    for block, own in zip(blocks, costs, strict=True):
        trail.append(_block_step(block, own, least, source))
        least = np.minimum(trail[-1].stays, least + block.gone)
    if not np.isfinite(least).any():
        return None
    # the dearest of equals, because a budget is there to be used
    place = int(np.flatnonzero(least == least.min())[-1])
    safe = max(0, -(-enough * _GRID // source) + sum(len(own) for own in costs))  # enough for certain
    if place < safe and np.isfinite(least[safe:]).any():
        place = safe + int(least[safe:].argmin())
    return _widths_at(place, trail)


def _block_step(block: Block, costs: Sequence[np.ndarray], before: np.ndarray, source: int) -> _BlockStep:
    steps, stays = [], before
    for part, cost in zip(block.parts, costs, strict=True):
        numbers, grains = _undominated(part.damage, cost, source)
        steps.append(_PartStep(part=part, numbers=numbers, grains=grains, before=stays))
        stays = _with_one_of(stays, grains, part.damage[numbers])
    return _BlockStep(block=block, parts=steps, before=before, stays=stays)


def _widths_at(place: int, trail: Sequence[_BlockStep]) -> dict[str, int]:
    """The widths that reach the least damage at `place` grains, from the last block back to the first."""
    widths: dict[str, int] = {}
    for step in reversed(trail):
        if step.stays[place] > step.before[place] + step.block.gone:
            names = [name for part in step.block.parts for name in part.names]
            widths |= dict.fromkeys([step.block.site, *names], 0)
            continue
        for own in reversed(step.parts):
            fits = own.grains <= place
            totals = own.before[place - own.grains[fits]] + own.part.damage[own.numbers[fits]]
            best = int(totals.argmin())
            widths |= {name: int(width[own.numbers[best]]) for name, width in own.part.widths.items()}
            place -= int(own.grains[best])
    return widths


def _undominated(damage: np.ndarray, cost: np.ndarray, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the choices that nothing cheaper is better than, and their costs in grains, the cheapest first."""
    order = np.lexsort((damage, cost))
    order = order[damage[order] <= np.minimum.accumulate(damage[order])]
    grains = -(-cost[order] * _GRID // source)
    best = np.append(np.diff(grains) > 0, True)  # the last of those that cost the same number of grains
    return order[best], grains[best]


def _with_one_of(before: np.ndarray, grains: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Least damage by the grains that are spent, after one more choice."""
    after = np.full(len(before), np.inf)
    if not len(reached := np.flatnonzero(np.isfinite(before))):
        return after
    first, last = int(reached[0]), int(reached[-1])
    known = before[first : last + 1]
    total = np.empty_like(known)
    for shift, each in zip(grains.tolist(), damage.tolist(), strict=True):
        count = min(len(known), len(before) - first - shift)
        if count > 0:
            rest = after[first + shift : first + shift + count]
            np.minimum(rest, np.add(known[:count], each, out=total[:count]), out=rest)
    return after
