"""Least damage at a budget over the widths of the streams and of everything that they feed.

With the streams given, the knapsack is solved. Where they allow few combinations, all of them are weighed by their
bounds; where they allow many, only those that are cheapest at some price on cost, and their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from prune_realloc.planning.budgeted import NotFound
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.knapsack import knapsack
from prune_realloc.planning.measures import TOO_MUCH
from prune_realloc.planning.parts import blocks_of
from prune_realloc.planning.prices import PricedNetwork
from prune_realloc.planning.relaxation import relaxation

_SOLVED = 3
"""Combinations of the streams' widths that are solved exactly at least, the most promising by their bounds."""
_MOST_SOLVED = 48
"""And at most, where what was found is not near to the bound of the next: bounds let a fraction of a block go, so they
promise too much where whole blocks take most of the cost."""
_NEAR = 1.01
_FEW = 256
"""So many combinations of the widths of several streams are all weighed; those of one stream always are."""


@dataclass(frozen=True, order=True)
class _Streams:
    """Widths of the streams, the most promising first in order."""

    short: bool
    """Even at its widest, the network spends less than a plan must: the last resort."""
    bound: float
    """What no network with these streams is better than."""
    widths: tuple[int, ...]
    left: int
    """What the streams leave of the budget."""


def least_damage(problem: PlanningProblem, limit: int) -> tuple[dict[str, int], float]:
    """Widths of least damage within the budget, and the bound that no plan beats.

    Raises:
        NotFound: no widths were found.
    """
    search = _Search(problem, limit)
    options, bound = search.all() if search.is_small else search.promising()
    best: tuple[bool, float, dict[str, int]] | None = None
    for number, streams in enumerate(sorted(options)[:_MOST_SOLVED]):
        if number >= _SOLVED and best is not None and best[:2] <= (streams.short, _NEAR * streams.bound):
            break
        widths = search.solved(streams)
        if widths is None:
            continue
        found = problem.cost(widths) < problem.enough(limit), problem.damage(widths), widths
        if best is None or found[:2] < best[:2]:
            best = found
    if best is None:
        raise NotFound(
            f"{problem.kind}: {problem.measure.exact(limit)} lies so close to the least that the rules allow that no "
            "plan was found; raise the budget",
            bound,
        )
    return best[2], min(best[1], bound)


class _Search:
    """The streams of a problem, and what every combination of their widths is worth."""

    def __init__(self, problem: PlanningProblem, limit: int) -> None:
        self.problem, self.limit = problem, limit
        self.names = problem.streams()
        self.blocks = blocks_of(problem)
        self._outside = [(p.sites, p.each) for p in problem.prices if set(p.sites) <= set(self.names)]
        self._relaxed = relaxation(self.blocks)
        self._weighed: dict[tuple[int, ...], _Streams | None] = {}

    @property
    def is_small(self) -> bool:
        """Whether all combinations of the streams' widths can be weighed."""
        return len(self.names) < 2 or prod(len(self.problem.choices[name]) for name in self.names) <= _FEW

    def all(self) -> tuple[list[_Streams], float]:
        """All combinations that fit, and the bound that no plan beats."""
        options = self._fitting(product(*(self.problem.choices[name] for name in self.names)))
        return options, min((streams.bound for streams in options), default=np.inf)

    def promising(self) -> tuple[list[_Streams], float]:
        """Combinations that are cheapest at some price, with neighbours that are better, and the bound."""
        bound, met = PricedNetwork(self.problem, self.blocks).bound(self.limit)
        best = sorted(self._fitting(met))[:_SOLVED]
        while best:
            nearby = self._fitting(widths for streams in best for widths in self._neighbours(streams.widths))
            better = sorted({*best, *nearby})[:_SOLVED]
            if better == best:
                break
            best = better
        return [streams for streams in self._weighed.values() if streams is not None], bound

    def solved(self, streams: _Streams) -> dict[str, int] | None:
        """All widths of least damage with these streams; None if none fit."""
        stream = dict(zip(self.names, streams.widths, strict=True))
        costs = [block.costs(stream) for block in self.blocks]
        enough = streams.left - self.limit + self.problem.enough(self.limit)
        chosen = knapsack(self.blocks, costs, streams.left, enough, self.problem.source)
        if chosen is None:
            return None
        return dict.fromkeys(self.problem.choices, 1) | stream | chosen  # a block without a choice stays

    def _fitting(self, combinations: Iterable[tuple[int, ...]]) -> list[_Streams]:
        """Those of the combinations of widths that the budget allows."""
        wanted = list(combinations)
        for widths in wanted:
            if widths not in self._weighed:
                self._weighed[widths] = self._weigh(widths)
        return [streams for widths in wanted if (streams := self._weighed[widths]) is not None]

    def _weigh(self, widths: tuple[int, ...]) -> _Streams | None:
        """What these widths of the streams are worth; None if the budget does not allow them."""
        stream = dict(zip(self.names, widths, strict=True))
        if self.problem.measure.over(stream):
            return None
        left = self.limit - sum(each * prod(stream[name] for name in sites) for sites, each in self._outside)
        costs = [block.costs(stream) for block in self.blocks]
        least = sum(
            0 if block.gone < np.inf else sum(int(cost.min()) for cost in parts)
            for block, parts in zip(self.blocks, costs, strict=True)
        )
        if least > left:
            return None
        most = sum(int(cost[cost < TOO_MUCH].max(initial=0)) for parts in costs for cost in parts)
        own = float(sum(self.problem.curves[name][width] for name, width in stream.items()))
        short = most + self.limit - left < self.problem.enough(self.limit)
        return _Streams(short, own + self._relaxed(costs, left), widths, left)

    def _neighbours(self, widths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The same widths but for one stream, which is 1, 2, 4 ... choices narrower or wider."""
        for index, (name, width) in enumerate(zip(self.names, widths, strict=True)):
            choices = self.problem.choices[name]
            place, steps = choices.index(width), [2**power for power in range(len(choices).bit_length())]
            for other in (*(place - step for step in steps), *(place + step for step in steps)):
                if 0 <= other < len(choices):
                    yield (*widths[:index], choices[other], *widths[index + 1 :])
