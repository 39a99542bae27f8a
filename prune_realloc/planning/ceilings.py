"""Least damage where a budget is of a sum and a maximum: the weights, and what is alive at the worst moment of a pass.

Under a ceiling on the maximum, every moment bounds the widths that it reads, and the sum has what is left of the
budget. The ceiling is found by halving: where it lies between two numbers, no plan beats the one under the upper that
may spend what the lower leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prune_realloc.core.errors import InputError
from prune_realloc.planning.budgeted import Budgeted, NotFound, all_hold
from prune_realloc.planning.extremes import cheapest, dearest

_HALVINGS = 5
_CLOSE = 0.01
"""How near to the bound the damage of a plan is close enough."""
Solve = Callable[[Sequence[Budgeted]], tuple[dict[str, int], float]]
"""Budgets that are all of sums -> widths of least damage, and the bound; raises NotFound where none are found."""


@dataclass(frozen=True, order=True)
class _Range:
    """Where the maximum lies."""

    bound: float
    """No plan there has less damage."""
    low: int
    high: int


def under_ceilings(budgets: Sequence[Budgeted], solve: Solve) -> tuple[dict[str, int], float]:
    """Widths of least damage within every budget, and the bound that no plan beats; at most one is of a maximum.

    Raises:
        InputError: no plan was found.
    """
    peak = next((each for each in budgets if each.problem.measure.moments), None)
    return solve(budgets) if peak is None else _Halving(budgets, peak, solve).done()


class _Halving:
    def __init__(self, budgets: Sequence[Budgeted], peak: Budgeted, solve: Solve) -> None:
        self._budgets, self._peak, self._solve = budgets, peak, solve
        self._found: list[dict[str, int]] = []
        """Widths within every budget."""
        self._solved: dict[tuple[int, int], tuple[dict[str, int] | None, float]] = {}

    def done(self) -> tuple[dict[str, int], float]:
        problem = self._peak.problem
        low, high = problem.measure.cheap.largest(cheapest(problem)), problem.measure.dear.largest(dearest(problem))
        ranges = self._within(low, min(high, self._peak.limit))
        for _ in range(_HALVINGS):
            if not ranges or self._is_hopeless(ranges[0].bound):
                break
            best, *others = ranges
            middle = (best.low + best.high) // 2
            ranges = sorted([*others, *self._within(best.low, middle), *self._within(middle, best.high)])
        if not self._found:
            raise InputError(
                f"{problem.kind}: no plan was found within {problem.measure.exact(self._peak.limit)}; raise the "
                "budget, or lower round_to"
            )
        return min(self._found, key=problem.damage), min(self._least, *(each.bound for each in ranges))

    @property
    def _least(self) -> float:
        return min(map(self._peak.problem.damage, self._found))

    def _is_hopeless(self, bound: float) -> bool:
        """Can what has this bound be no better than what is found, or hardly?"""
        return bool(self._found) and bound >= (1 - _CLOSE) * self._least

    def _within(self, low: int, high: int) -> list[_Range]:
        """The range, if a plan may lie in it; what is found in it is kept."""
        widths, bound = self._at(high, self._peak.limit - low)
        if bound == np.inf:
            return []
        if not self._keep(widths) and not self._is_hopeless(bound):
            reached = high if widths is None else self._peak.problem.measure.largest(widths)
            certain, _ = self._at(reached, self._peak.limit - reached)
            self._keep(certain)
        return [_Range(bound, low, high)]

    def _keep(self, widths: dict[str, int] | None) -> bool:
        """Keeps widths that are within every budget; are these?"""
        if widths is None or not all_hold(self._budgets, widths):
            return False
        self._found.append(widths)
        return True

    def _at(self, ceiling: int, limit: int) -> tuple[dict[str, int] | None, float]:
        """Widths of least damage under a ceiling, with so much for the sum, if any are found, and the bound."""
        if limit <= 0:
            return None, np.inf  # no network is without weights
        if (ceiling, limit) not in self._solved:
            problem = self._peak.problem
            under = Budgeted(problem.counting(problem.measure.under(ceiling)), limit)
            try:
                under_all = [under if each is self._peak else each for each in self._budgets]
                self._solved[ceiling, limit] = self._solve(under_all)
            except NotFound as error:
                self._solved[ceiling, limit] = None, error.bound
        return self._solved[ceiling, limit]
