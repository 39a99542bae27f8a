"""The networks that cost least and most of those that the rules allow. No torch here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.parts import blocks_of


def cheapest(problem: PlanningProblem) -> dict[str, int]:
    """Widths of the network that costs least."""
    return _extreme(problem, -1, np.argmin)


def dearest(problem: PlanningProblem) -> dict[str, int]:
    """Widths of the network that costs most."""
    return _extreme(problem, 0, np.argmax)


def _extreme(problem: PlanningProblem, end: int, pick: Callable[[np.ndarray], np.intp]) -> dict[str, int]:
    widths = {name: choices[end] for name, choices in problem.choices.items()}
    if all(price.unlike is None for price in problem.prices):
        return widths  # costs grow with every width
    stream = {name: widths[name] for name in problem.streams()}
    for block in blocks_of(problem):
        for part, costs in zip(block.parts, block.costs(stream), strict=True):
            widths |= {name: int(ways[pick(costs)]) for name, ways in part.widths.items()}
    return widths
