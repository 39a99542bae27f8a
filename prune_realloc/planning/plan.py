"""From damage curves and a budget to widths, each with its reason. No torch here.

Every site has a curve: the damage (nats per image) of keeping only w of its units. Costs are sums of products of
widths, so with the streams' widths given, a block's attention and its FFN are independent choices with a cost and a
damage each: a multiple-choice knapsack. Dynamic programming over the cost solves it; multiples, floors and ceilings
only thin out the choices, so they are part of the solution and not of a rounding after it. Putting a price on cost
gives a bound that no plan can beat (the linear relaxation), which is stated beside the plan; where several streams
allow many combinations of widths, the price also finds those that are worth solving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.structure import site_place
from prune_realloc.planning.allocate import least_damage
from prune_realloc.planning.budgeted import Budgeted, one_is_spent
from prune_realloc.planning.ceilings import under_ceilings
from prune_realloc.planning.choices import PlanningProblem, movable_axes
from prune_realloc.planning.described import described, digits
from prune_realloc.planning.measures import of_kind, of_memory, of_time
from prune_realloc.planning.remedies import check_budget, most_of, too_coarse
from prune_realloc.planning.several import least_damage_within
from prune_realloc.planning.uniform import shared_shares
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import Plan


def plan(analysis: Analysis, recipe: Recipe, table: LatencyTable | None = None) -> Plan:
    """The widths of every site under the recipe's budgets and rules.

    Args:
        table: of this network, where a budget limits time.

    Raises:
        InputError: a budget cannot be met, nothing would be removed, there is no table of times, or damage is to be
            compared across sites where it cannot be; the message says what binds.
    """
    problem = PlanningProblem(analysis, recipe)
    bound, budgets = None, _budgets(problem, table)
    if not budgets:
        widths = problem.by_rule()
    else:
        widths, bound = _at_budgets(budgets)
    _check_outcome(problem, budgets, widths)
    return described(problem, budgets, widths, bound, table)


def planned(analysis: Analysis, recipe: Recipe, table: LatencyTable | None = None) -> Recipe:
    """The recipe with its plan, and with what may be cut, where the recipe does not say it and the network differs.

    Raises:
        InputError: as `plan` does.
    """
    return recipe.model_copy(update=axes_named(analysis, recipe) | {"plan": plan(analysis, recipe, table)})


def axes_named(analysis: Analysis, recipe: Recipe) -> dict[str, Any]:
    """The field `axes` as it was taken, where the one of the recipe would be read otherwise without this network."""
    axes = movable_axes(analysis, recipe)
    return {} if axes == recipe.axes else {"axes": axes}


def _budgets(problem: PlanningProblem, table: LatencyTable | None) -> list[Budgeted]:
    """What the recipe limits, in numbers."""
    analysis, budget = problem.analysis, problem.recipe.budget
    if budget is None:
        return []
    found = []
    for kind in budget.kinds:
        counting = problem.counting(of_kind(analysis, kind))
        found.append(Budgeted(counting, budget.limit(counting.source, kind)))
    if budget.limits_time:
        if table is None:
            raise InputError(
                "budget: time is limited, and there is no table of times; give table=, see measure_latency"
            )
        table.require(analysis.terms, analysis.widths, analysis.model.get("modules", ""), budget.asked)
        limit_ms = budget.limit_ms(digits(table.predict(analysis.widths), 6))
        found.append(Budgeted(problem.counting(of_time(table)), int(limit_ms * table.parts)))
    if budget.limits_memory:
        if analysis.memory is None:
            raise InputError(
                "budget: memory is limited, and the analysis has no formula of it (it is of an older version, or of a "
                "network inside another, or that runs otherwise each time); run `analyze` again, or limit another cost"
            )
        peak = problem.counting(of_memory(analysis, analysis.memory, budget.images))
        found.append(Budgeted(peak, budget.limit_bytes(peak.source)))
    return found


def _at_budgets(budgets: Sequence[Budgeted]) -> tuple[dict[str, int], float | None]:
    """Widths within the budgets as the recipe allocates them, and the bound that no plan beats, where one is known."""
    binding = [each for each in budgets if each.limit < most_of(each.problem)] or budgets[:1]
    for each in binding:
        check_budget(each.problem, each.limit)
    allocation = budgets[0].problem.recipe.allocation
    if allocation != "damage":
        return shared_shares(binding, allocation), None
    return under_ceilings(binding, _least_damage)


def _least_damage(budgets: Sequence[Budgeted]) -> tuple[dict[str, int], float]:
    if len(budgets) > 1:
        return least_damage_within(budgets)
    return least_damage(budgets[0].problem, budgets[0].limit)


def _check_outcome(problem: PlanningProblem, budgets: Sequence[Budgeted], widths: Widths) -> None:
    """Raises InputError where nothing is removed, nothing is left, a budget is exceeded, or none is spent."""
    if widths == dict(problem.analysis.widths):
        raise InputError(
            "the plan removes nothing: every rule and budget leaves each width as it is; lower the budget "
            "or a rule's keep"
        )
    blocks = [width for name, width in widths.items() if site_place(name)[0] == "block"]
    if blocks and not any(blocks):
        at = "".join(f"{each.problem.kind}: at {each.problem.measure.exact(each.limit)} " for each in budgets[:1])
        raise InputError(f"{at}no block would be left; raise the budget, or freeze a block")
    for each in budgets:
        if not each.holds(widths):
            shown, cost = each.problem.measure.exact, each.problem.cost(widths)
            raise InputError(
                f"{each.problem.kind}: {shown(each.limit)} asked for, allocation {problem.recipe.allocation} comes "
                f"to {shown(cost)}; raise the budget, or take another allocation"
            )
    if budgets and not one_is_spent(budgets, widths):
        tightest = max(budgets, key=lambda each: each.spent(widths))
        raise too_coarse(tightest.problem, tightest.limit, widths, lambda limit: _found_at(tightest.problem, limit))


def _found_at(problem: PlanningProblem, limit: int) -> dict[str, int] | None:
    """Widths within another budget, if the rules leave any."""
    try:
        return _at_budgets([Budgeted(problem, limit)])[0]
    except InputError:
        return None
