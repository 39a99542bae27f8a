"""Of the networks that the rules allow those that cost least and most, and those a step wider than one. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from prune_realloc.core.cost import Widths
from prune_realloc.core.structure import site_place, without_dropped_blocks
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.parts import blocks_of


def cheapest(problem: PlanningProblem) -> dict[str, int]:
    """Widths of the network that costs least; where moments count, as if widths were alike at each."""
    return _extreme(problem, -1, np.argmin)


def dearest(problem: PlanningProblem) -> dict[str, int]:
    """Widths of the network that costs most; where moments count, as if widths were unlike at each."""
    return _extreme(problem, 0, np.argmax)


def a_step_wider(problem: PlanningProblem, widths: Widths) -> Iterator[dict[str, int]]:
    """The widths with one site a step wider, a whole block among them."""
    for name, choices in problem.choices.items():
        axis, block = site_place(name)
        wider = [width for width in choices if width > widths[name]]
        if axis == "block" and wider:
            inside = {n: choice[0] for n, choice in problem.choices.items() if site_place(n)[1] == block}
            yield {**widths, **inside}
        elif wider and widths[name]:
            yield without_dropped_blocks({**widths, name: wider[-1]})


def _extreme(problem: PlanningProblem, end: int, pick: Callable[[np.ndarray], np.intp]) -> dict[str, int]:
    widths = {name: choices[end] for name, choices in problem.choices.items()}
    if all(price.unlike is None for price in problem.prices):
        return widths  # costs grow with every width
    stream = {name: widths[name] for name in problem.streams()}
    for block in blocks_of(problem):
        for part, costs in zip(block.parts, block.costs(stream), strict=True):
            widths |= {name: int(ways[pick(costs)]) for name, ways in part.widths.items()}
    return widths
