"""Least damage where several budgets hold at once: the knapsack at a weighted mean of what they allow.

A network that keeps every budget keeps any mean of them, so least damage at a mean is a bound for all; and where what
is found keeps them all, it is the plan. Weights move to the budgets that are exceeded until it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prune_realloc.core.cost import Widths
from prune_realloc.planning.allocate import least_damage
from prune_realloc.planning.budgeted import Budgeted, NotFound, all_hold, one_is_spent
from prune_realloc.planning.measures import WHOLE, together

_TRIES = 12
_STEPS = (16.0, 8.0, 4.0)
"""How far weights move, as a power of the share of a budget that is spent; the last of them for all later tries."""
_SHORT = (0.999, 0.997, 0.995, 0.99, 0.98, 0.96, 0.93, 0.9)
"""Shares of the mean that are spent where no weights keep every budget."""


def least_damage_within(budgets: Sequence[Budgeted]) -> tuple[dict[str, int], float]:
    """Widths of least damage within every budget, and the bound that no plan beats.

    Raises:
        NotFound: no widths were found that meet one of the budgets, or all.
    """
    found = [least_damage(each.problem, each.limit) for each in budgets]
    bound = max(bound for _, bound in found)
    kept = [widths for widths, _ in found if _fits(budgets, widths)]
    if not kept:
        kept, bound = _at_means(budgets, bound)
    problem = budgets[0].problem
    if not kept:
        raise NotFound(
            f"{' and '.join(each.problem.kind for each in budgets)}: no plan was found that keeps both budgets and "
            "spends one of them; raise one, or lower round_to",
            bound,
        )
    return min(kept, key=problem.damage), bound


def _at_means(budgets: Sequence[Budgeted], bound: float) -> tuple[list[dict[str, int]], float]:
    """Widths that keep every budget, at several weights, and the bound."""
    kept: list[dict[str, int]] = []
    weights = np.full(len(budgets), 1 / len(budgets))
    for number in range(_TRIES):
        found = _at_mean(budgets, weights, WHOLE)
        if found is None:
            break
        widths, least = found
        bound = max(bound, least)
        kept += [widths] if _fits(budgets, widths) else []
        weights *= np.array([each.spent(widths) for each in budgets]) ** _STEPS[min(number, len(_STEPS) - 1)]
        weights /= weights.sum()
    for share in () if kept else _SHORT:
        found = _at_mean(budgets, weights, int(share * WHOLE))
        if found is not None and _fits(budgets, found[0]):
            return [found[0]], bound
    return kept, bound


def _at_mean(budgets: Sequence[Budgeted], weights: np.ndarray, limit: int) -> tuple[dict[str, int], float] | None:
    """Widths within the mean, and their bound; None where none are found."""
    measures = [each.problem.measure for each in budgets]
    mean = together(measures, [each.limit for each in budgets], weights.tolist())
    try:
        return least_damage(budgets[0].problem.counting(mean), limit)
    except NotFound:
        return None


def _fits(budgets: Sequence[Budgeted], widths: Widths) -> bool:
    """Is every budget kept, and one of them spent?"""
    return all_hold(budgets, widths) and one_is_spent(budgets, widths)
