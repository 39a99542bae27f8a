"""Least damage at a budget: a multiple-choice knapsack over the sites' damage curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import numpy as np

from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name, site_place
from prune_realloc.planning.choices import PlanningProblem

_GRID = 50_000
"""Steps of cost, as a part of the source's: the resolution of the dynamic program."""
_STREAM_WIDTHS = 3
"""Widths of the stream that are solved exactly, the most promising by their bounds."""


class _Part:
    """Sites that are chosen together (the attention of a block, or its FFN), and every way to build them."""

    def __init__(self, house: PlanningProblem, names: Sequence[str]) -> None:
        self.names = names
        grid = np.meshgrid(*(house.choices[name] for name in names), indexing="ij")
        self.widths = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
        self.damage = sum(np.asarray(house.curves[name])[width] for name, width in self.widths.items())
        self._terms = [
            (
                [n for n in sites if n not in names],
                each * np.prod([self.widths[n] for n in sites if n in names], axis=0),
            )
            for sites, each in house.terms
            if set(sites) & set(names)
        ]

    def cost(self, stream: Widths) -> np.ndarray:
        return sum(prod(stream.get(name, 1) for name in others) * units for others, units in self._terms)


class _Block:
    """Parts that are chosen one by one, or go together."""

    def __init__(self, house: PlanningProblem, block: int | None, parts: Sequence[_Part]) -> None:
        self.site, self.parts = site_name("block", block), parts
        may_go = len(house.choices.get(self.site, ())) > 1
        self.gone = float(house.curves[self.site][0]) if may_go else np.inf
        self._terms = [
            ([n for n in sites if n != self.site], each) for sites, each in house.terms if self.site in sites
        ]

    def costs(self, stream: Widths) -> list[np.ndarray]:
        """Of each choice of each part; what the block costs whatever its widths is counted with the first part."""
        costs = [part.cost(stream) for part in self.parts]
        costs[0] = costs[0] + sum(each * prod(stream[n] for n in others) for others, each in self._terms)
        return costs


def _blocks(house: PlanningProblem) -> list[_Block]:
    parts: dict[int | None, list[_Part]] = {}
    for names in house.components():
        parts.setdefault(site_place(names[0])[1], []).append(_Part(house, names))
    return [_Block(house, block, own) for block, own in parts.items()]


def least_damage(house: PlanningProblem, limit: int) -> tuple[dict[str, int], float]:
    """Widths of least damage within the budget, and the bound that no plan beats."""
    streams = [name for name in house.choices if site_place(name)[0] == "embed"]
    outside = [(sites, each) for sites, each in house.terms if set(sites) <= set(streams)]
    blocks = _blocks(house)
    relaxed = _relaxation(blocks)
    options = []
    for given in product(*(house.choices[name] for name in streams)):
        stream = dict(zip(streams, given, strict=True))
        own = float(sum(house.curves[name][width] for name, width in stream.items()))
        left = limit - sum(each * prod(stream[name] for name in sites) for sites, each in outside)
        costs = [block.costs(stream) for block in blocks]
        most = sum(int(cost.max()) for parts in costs for cost in parts)
        least = [
            0 if block.gone < np.inf else sum(int(cost.min()) for cost in parts)
            for block, parts in zip(blocks, costs, strict=True)
        ]
        if sum(least) <= left:
            short = most + limit - left < house.enough(limit)  # even at its widest: the last resort
            options.append((short, own + relaxed(costs, left), given, left))
    options.sort()
    best: tuple[bool, float, dict[str, int]] | None = None
    for _, _, given, left in options[:_STREAM_WIDTHS]:
        stream = dict(zip(streams, given, strict=True))
        costs = [block.costs(stream) for block in blocks]
        chosen = _knapsack(blocks, costs, left, left - limit + house.enough(limit), house.count(house.source))
        if chosen is None:
            continue
        widths = dict.fromkeys(house.choices, 1) | stream | chosen  # a block without a choice stays
        found = house.cost(widths) < house.enough(limit), house.damage(widths), widths
        if best is None or found[:2] < best[:2]:
            best = found
    if best is None:
        raise InputError(
            f"{house.kind}: {limit:,} lies so close to the least that the rules allow that no plan was "
            "found; raise the budget, or lower floors"
        )
    return best[2], min(best[1], *(bound for _, bound, _, _ in options))


def _relaxation(blocks: Sequence[_Block]) -> Callable[[Sequence[Sequence[np.ndarray]], int], float]:
    """The function (costs, limit) -> least damage at `limit` if choices could be mixed.

    With a price on cost every part has its best choice by itself, and the least of damage + price * (cost - limit) is
    a bound at any price (Lagrange); the best one is where the spending crosses the limit.
    """
    parts = [part for block in blocks for part in block.parts]
    size = max(len(part.damage) for part in parts)
    damages = np.stack([np.pad(part.damage, (0, size - len(part.damage)), constant_values=np.inf) for part in parts])
    highest = 1 + sum(float(part.damage.max()) for part in parts)  # per unit of cost: nothing is worth that
    gone = np.array([block.gone for block in blocks])
    starts = np.cumsum([0, *(len(block.parts) for block in blocks[:-1])])
    rows = np.arange(len(parts))

    def bound(costs: Sequence[Sequence[np.ndarray]], limit: int) -> float:
        padded = np.zeros(damages.shape)
        for row, cost in zip(padded, (cost for own in costs for cost in own), strict=True):
            row[: len(cost)] = cost
        found, low, high = 0.0, 0.0, highest
        for _ in range(64):
            price = (low + high) / 2
            picks = (damages + price * padded).argmin(axis=1)
            cost = np.add.reduceat(padded[rows, picks], starts)
            worth = np.add.reduceat(damages[rows, picks], starts) + price * cost
            found = max(found, float(np.minimum(worth, gone).sum()) - price * limit)
            low, high = (price, high) if cost[worth <= gone].sum() > limit else (low, price)
        return found

    return bound


def _knapsack(
    blocks: Sequence[_Block], costs: Sequence[Sequence[np.ndarray]], limit: int, enough: int, source: int
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
        stays, steps = least, []
        for part, cost in zip(block.parts, own, strict=True):
            numbers, grains = _undominated(part.damage, cost, source)
            steps.append((part, numbers, grains, stays))
            stays = _with_one_of(stays, grains, part.damage[numbers])
        trail.append((block, steps, stays, least))
        least = np.minimum(stays, least + block.gone)
    if not np.isfinite(least).any():
        return None
    # the dearest of equals, because a budget is there to be used
    place = int(np.flatnonzero(least == least.min())[-1])
    safe = max(0, -(-enough * _GRID // source) + sum(len(own) for own in costs))  # enough for certain
    if place < safe and np.isfinite(least[safe:]).any():
        place = safe + int(least[safe:].argmin())
    widths: dict[str, int] = {}
    for block, steps, stays, before in reversed(trail):
        if stays[place] > before[place] + block.gone:
            widths |= dict.fromkeys([block.site, *(name for part in block.parts for name in part.names)], 0)
            continue
        for part, numbers, grains, before in reversed(steps):
            fits = grains <= place
            totals = before[place - grains[fits]] + part.damage[numbers[fits]]
            best = int(totals.argmin())
            widths |= {name: int(width[numbers[best]]) for name, width in part.widths.items()}
            place -= int(grains[best])
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
    for shift, each in zip(grains.tolist(), damage.tolist(), strict=True):
        if shift < len(before):
            rest = after[shift:]
            np.minimum(rest, before[: len(rest)] + each, out=rest)
    return after
