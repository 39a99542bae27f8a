"""A budget in numbers: what is counted, and the limit. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError
from prune_realloc.planning.choices import TOLERANCE, PlanningProblem
from prune_realloc.planning.extremes import a_step_wider


@dataclass(frozen=True, eq=False)
class Budgeted:
    """A problem, at one cost, and the limit of that cost."""

    problem: PlanningProblem
    limit: int

    def spent(self, widths: Widths) -> float:
        """Share of the budget."""
        return self.problem.cost(widths) / self.limit

    def holds(self, widths: Widths) -> bool:
        return self.problem.cost(widths) <= self.limit and not self.problem.measure.over(widths)

    def is_spent(self, widths: Widths) -> bool:
        """Is so much spent as a plan must?"""
        return self.problem.cost(widths) >= self.problem.enough(self.limit)

    def is_near(self, widths: Widths) -> bool:
        """Is little of it left?"""
        return self.problem.cost(widths) >= (1 - TOLERANCE) * self.limit


class NotFound(InputError):
    """No widths were found within budgets."""

    def __init__(self, message: str, bound: float) -> None:
        super().__init__(message)
        self.bound = bound
        """Damage that no widths within them are better than; infinite where there are none."""


def all_hold(budgets: Sequence[Budgeted], widths: Widths) -> bool:
    return all(each.holds(widths) for each in budgets)


def one_is_spent(budgets: Sequence[Budgeted], widths: Widths) -> bool:
    """Whether little is left of one, or time or memory keep the network from being a step wider where no cost would.

    Where these alone are limited nothing must be spent: nobody wants more of them than what accuracy needs.
    """
    costs = [each for each in budgets if each.problem.measure.must_be_spent]
    others = [each for each in budgets if not each.problem.measure.must_be_spent]
    if not costs or any(each.is_spent(widths) for each in costs) or any(each.is_near(widths) for each in others):
        return True
    wider = a_step_wider(costs[0].problem, widths)
    return any(all_hold(costs, one) and not all_hold(others, one) for one in wider)
