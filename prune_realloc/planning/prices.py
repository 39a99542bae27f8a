"""The cheapest network at a price on cost, over all widths of all streams at once.

With a price on cost, every part has its best choice by itself as soon as the streams that it reads are given. So a
block is a table over the widths of its streams, and a sum of tables has its minimum by eliminating one stream after
the other, without a look at every combination. The least of damage + price * (cost - limit) is a bound at any price
(Lagrange), and the streams of these networks at many prices are where a plan is worth looking for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.parts import Block
from prune_realloc.planning.relaxation import PRICES, highest_price

_Table = tuple[tuple[str, ...], np.ndarray]
"""Names of streams, and a number for every combination of their choices."""


@dataclass(frozen=True)
class Cheapest:
    """The network of least damage + price * cost."""

    value: float
    cost: int
    streams: tuple[int, ...]
    """Width of each stream."""


class PricedNetwork:
    """All networks that the choices allow, as tables over the widths of the streams."""

    def __init__(self, problem: PlanningProblem, blocks: Sequence[Block]) -> None:
        self.names = problem.streams()
        self._choices = problem.choices
        self._highest = highest_price(blocks)
        self._damage: list[_Table] = [
            ((name,), np.array([problem.curves[name][width] for width in problem.choices[name]])) for name in self.names
        ]
        self._outside = [
            self._outside_table(price.sites, price.each) for price in problem.prices if self._is_outside(price.sites)
        ]
        self._blocks = [(block, *self._block_table(block)) for block in blocks]

    def at(self, price: float) -> Cheapest:
        """The network of least damage + price * cost."""
        tables = [*self._damage, *((names, price * cost) for names, cost in self._outside)]
        spent = list(self._outside)
        for block, names, costs in self._blocks:
            worth, cost = _best_choices(block, costs, price)
            tables.append((names, worth))
            spent.append((names, cost))
        value, places = _least_sum(tables, self.names)
        total = sum(int(cost[tuple(places[name] for name in names)]) for names, cost in spent)
        return Cheapest(value, total, tuple(self._choices[name][places[name]] for name in self.names))

    def bound(self, limit: int) -> tuple[float, set[tuple[int, ...]]]:
        """What no network within `limit` is better than, and the streams of the networks that were met on the way."""
        bound, met, low, high = 0.0, set(), 0.0, self._highest
        for _ in range(PRICES):
            price = (low + high) / 2
            found = self.at(price)
            met.add(found.streams)
            bound = max(bound, found.value - price * limit)
            low, high = (price, high) if found.cost > limit else (low, price)
        return bound, met

    def _is_outside(self, sites: Sequence[str]) -> bool:
        return set(sites) <= set(self.names)

    def _outside_table(self, sites: Sequence[str], each: int) -> _Table:
        names = tuple(name for name in self.names if name in sites)
        shape = [len(self._choices[name]) for name in names]
        costs = [each * prod(stream[name] for name in sites) for stream in self._combinations(names)]
        return names, np.array(costs).reshape(shape)

    def _block_table(self, block: Block) -> tuple[tuple[str, ...], list[np.ndarray]]:
        """Streams of the block, and the costs of each choice of each part for every combination of their widths.

        Others that are only alive beside it, where there is a ceiling, are as narrow as they can be: a table over all
        would be too large, and what fits with wider ones fits with these, so the bound holds.
        """
        names = block.streams(self.names)
        shape = [len(self._choices[name]) for name in names]
        narrow = {name: self._choices[name][-1] for name in self.names}
        by_part = zip(*(block.costs(narrow | stream) for stream in self._combinations(names)), strict=True)
        return names, [np.stack(np.broadcast_arrays(*costs)).reshape(*shape, -1) for costs in by_part]

    def _combinations(self, names: Sequence[str]) -> list[dict[str, int]]:
        widths = product(*(self._choices[name] for name in names))
        return [dict(zip(names, given, strict=True)) for given in widths]


def _best_choices(block: Block, costs: Sequence[np.ndarray], price: float) -> tuple[np.ndarray, np.ndarray]:
    """Damage + price * cost, and cost, of the best choices in a block, for every combination of its streams."""
    worth = spent = np.zeros(())
    for part, cost in zip(block.parts, costs, strict=True):
        totals = part.damage + price * cost
        picks = totals.argmin(axis=-1)[..., None]
        worth = worth + np.take_along_axis(totals, picks, -1)[..., 0]
        spent = spent + np.take_along_axis(cost, picks, -1)[..., 0]
    return np.minimum(worth, block.gone), np.where(worth <= block.gone, spent, 0)


def _least_sum(tables: Sequence[_Table], names: Sequence[str]) -> tuple[float, dict[str, int]]:
    """The least sum of the tables, one number from each, and the place of each name where it is found."""
    left, eliminated = list(tables), []
    for name in names:
        touching = [table for table in left if name in table[0]]
        left = [table for table in left if name not in table[0]]
        others = tuple(n for n in names if n != name and any(n in own for own, _ in touching))
        joint: np.ndarray = sum((_aligned(table, (*others, name)) for table in touching), np.zeros(()))
        eliminated.append((name, others, joint.argmin(axis=-1)))
        left.append((others, joint.min(axis=-1)))
    places: dict[str, int] = {}
    for name, others, best in reversed(eliminated):
        places[name] = int(best[tuple(places[other] for other in others)])
    return float(sum(float(number) for _, number in left)), places


def _aligned(table: _Table, names: Sequence[str]) -> np.ndarray:
    """The numbers of a table with one axis for each of `names`, of length 1 where the table does not know the name."""
    own, numbers = table
    ordered = numbers.transpose([own.index(name) for name in names if name in own])
    return ordered[tuple(slice(None) if name in own else None for name in names)]
