"""What a plan chooses together: the attention of a block, or its FFN, with every way to build them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from prune_realloc.core.cost import Widths
from prune_realloc.core.prices import Price
from prune_realloc.core.structure import site_name, site_place
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.measures import TOO_MUCH


class Part:
    """Sites that are chosen together (the attention of a block, or its FFN), and every way to build them."""

    def __init__(self, problem: PlanningProblem, names: Sequence[str]) -> None:
        self.names = names
        grid = np.meshgrid(*(problem.choices[name] for name in names), indexing="ij")
        self.widths = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
        """Site name -> its width in each of the ways."""
        ways = prod(len(problem.choices[name]) for name in names)
        free = np.zeros(ways, dtype=np.int64)
        self.damage = sum(
            (np.asarray(problem.curves[name])[width] for name, width in self.widths.items()), np.zeros(ways)
        )
        """Damage of each of the ways."""
        inside = set(names)
        self.terms = [
            ([n for n in price.sites if n not in inside], free + price.at(self.widths | _ones(price, inside)))
            for price in problem.prices
            if price.reads & inside
        ]
        """Terms of the cost: other sites, and what each combination of their units costs in each of the ways."""
        self._ceiling = problem.measure.ceiling or 0
        moments = problem.measure.moments if problem.measure.ceiling is not None else ()
        self._moments = [
            [self._alive(problem, price) for price in moment]
            for moment in moments
            if any(price.reads & inside for price in moment)
        ]

    def cost(self, stream: Widths) -> np.ndarray:
        """Cost of each of the ways where the streams are so wide; `TOO_MUCH` where it does not fit under a ceiling."""
        free = np.zeros(len(self.damage), dtype=np.int64)
        cost = sum((prod(stream.get(name, 1) for name in others) * units for others, units in self.terms), free)
        for moment in self._moments:
            alive = sum((prod(stream[name] for name in streams) * units for streams, units in moment), free)
            cost = np.where(alive > self._ceiling, TOO_MUCH, cost)
        return cost

    def _alive(self, problem: PlanningProblem, price: Price) -> tuple[list[str], np.ndarray]:
        """The streams that a part of a moment grows with, and how much that is for each of their units in each of the
        ways; what is chosen elsewhere may be as wide as it can."""
        streams = [name for name in price.sites if name in problem.streams()]
        elsewhere = {name: problem.choices[name][0] for name in price.reads - {*self.widths}}
        widths = elsewhere | dict.fromkeys(streams, 1) | self.widths
        return streams, np.zeros(len(self.damage), dtype=np.int64) + price.at(widths)


def _ones(price: Price, inside: set[str]) -> dict[str, int]:
    """Width 1 for the sites that are chosen elsewhere."""
    return dict.fromkeys(price.reads - inside, 1)


class Block:
    """Parts that are chosen one by one, or go together."""

    def __init__(self, problem: PlanningProblem, block: int | None, parts: Sequence[Part]) -> None:
        self.site, self.parts = site_name("block", block), parts
        may_go = len(problem.choices.get(self.site, ())) > 1
        self.gone = float(problem.curves[self.site][0]) if may_go else np.inf
        """Damage without the block; infinite where it must stay."""
        inside = {name for part in parts for name in part.names}
        self._terms = [
            ([n for n in price.sites if n != self.site], price.each)
            for price in problem.prices
            if self.site in price.sites and not inside & price.reads
        ]

    def costs(self, stream: Widths) -> list[np.ndarray]:
        """Of each choice of each part; what the block costs whatever its widths is counted with the first part."""
        costs = [part.cost(stream) for part in self.parts]
        costs[0] = costs[0] + sum(each * prod(stream[n] for n in others) for others, each in self._terms)
        return costs

    def streams(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the streams `names` that its cost depends on."""
        terms = [*self._terms, *(term for part in self.parts for term in part.terms)]
        met = {name for others, _ in terms for name in others}
        return tuple(name for name in names if name in met)


def blocks_of(problem: PlanningProblem) -> list[Block]:
    """All that is chosen apart from the streams, block by block."""
    parts: dict[int | None, list[Part]] = {}
    for names in problem.components():
        parts.setdefault(site_place(names[0])[1], []).append(Part(problem, names))
    for axis, block in map(site_place, problem.choices):
        if axis == "block" and block not in parts:
            parts[block] = [Part(problem, ())]  # nothing to choose inside, but it costs, and may go
    return [Block(problem, block, own) for block, own in parts.items()]
