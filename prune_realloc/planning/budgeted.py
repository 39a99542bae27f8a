"""A budget in numbers: what is counted, and the limit. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from prune_realloc.core.cost import Widths
from prune_realloc.planning.choices import TOLERANCE, PlanningProblem


@dataclass(frozen=True, eq=False)
class Budgeted:
    """A problem, at one cost, and the limit of that cost."""

    problem: PlanningProblem
    limit: int

    def spent(self, widths: Widths) -> float:
        """Share of the budget."""
        return self.problem.cost(widths) / self.limit

    def holds(self, widths: Widths) -> bool:
        return self.problem.cost(widths) <= self.limit

    def is_spent(self, widths: Widths) -> bool:
        """Is it kept, with so much spent as a plan must?"""
        return self.problem.enough(self.limit) <= self.problem.cost(widths) <= self.limit

    def is_near(self, widths: Widths) -> bool:
        """Is little of it left?"""
        return self.problem.cost(widths) >= (1 - TOLERANCE) * self.limit
