"""From damage curves and a budget to widths, each with its reason. No torch here.

Every site has a curve: the damage (nats per image) of keeping only w of its units. Costs are sums of products of
widths, so with the streams' widths given, a block's attention and its FFN are independent choices with a cost and a
damage each: a multiple-choice knapsack. Dynamic programming over the cost solves it; multiples, floors and ceilings
only thin out the choices, so they are part of the solution and not of a rounding after it. Putting a price on cost
gives a bound that no plan can beat (the linear relaxation), which is stated beside the plan; where several streams
allow many combinations of widths, the price also finds those that are worth solving.
"""

from __future__ import annotations

from typing import Any

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import KINDS, Widths, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, site_beside, site_place
from prune_realloc.planning.allocate import least_damage
from prune_realloc.planning.choices import PlanningProblem, movable_axes
from prune_realloc.planning.remedies import check_budget, too_coarse
from prune_realloc.planning.site_reasons import site_reason
from prune_realloc.planning.uniform import shared_shares
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import Plan, SitePlan


def plan(analysis: Analysis, recipe: Recipe) -> Plan:
    """The widths of every site under the recipe's budget and rules.

    Raises:
        InputError: the budget cannot be met, nothing would be removed, or damage is to be compared across sites
            where it cannot be; the message says what binds.
    """
    problem = PlanningProblem(analysis, recipe)
    limit, bound = None, None
    if recipe.budget is None:
        widths = problem.by_rule()
    else:
        limit = recipe.budget.limit(problem.source)
        widths, bound = _at_budget(problem, limit)
    _check_outcome(problem, widths, limit)
    return _described(problem, widths, limit, bound)


def planned(analysis: Analysis, recipe: Recipe) -> Recipe:
    """The recipe with its plan, and with what may be cut, where the recipe does not say it and the network differs.

    Raises:
        InputError: as `plan` does.
    """
    return recipe.model_copy(update=axes_named(analysis, recipe) | {"plan": plan(analysis, recipe)})


def axes_named(analysis: Analysis, recipe: Recipe) -> dict[str, Any]:
    """The field `axes` as it was taken, where the one of the recipe would be read otherwise without this network."""
    axes = movable_axes(analysis, recipe)
    return {} if axes == recipe.axes else {"axes": axes}


def _at_budget(problem: PlanningProblem, limit: int) -> tuple[dict[str, int], float | None]:
    """Widths within the budget as the recipe allocates it, and the bound that no plan beats, where one is known."""
    check_budget(problem, limit)
    if problem.recipe.allocation == "damage":
        return least_damage(problem, limit)
    return shared_shares(problem, limit, problem.recipe.allocation), None


def _check_outcome(problem: PlanningProblem, widths: Widths, limit: int | None) -> None:
    """Raises InputError where nothing is removed, nothing is left, or the budget is not spent."""
    if widths == dict(problem.analysis.widths):
        raise InputError(
            "the plan removes nothing: every rule and budget leaves each width as it is; lower the budget "
            "or a rule's keep"
        )
    blocks = [width for name, width in widths.items() if site_place(name)[0] == "block"]
    if blocks and not any(blocks):
        raise InputError(f"{problem.kind}: at {limit:,} no block would be left; raise the budget, or freeze a block")
    achieved = problem.cost(widths)
    if limit is not None and not problem.enough(limit) <= achieved <= limit:
        raise too_coarse(problem, limit, widths, lambda budget: _found_at(problem, budget))


def _found_at(problem: PlanningProblem, limit: int) -> dict[str, int] | None:
    """Widths within another budget, if the rules leave any."""
    try:
        return _at_budget(problem, limit)[0]
    except InputError:
        return None


def _described(problem: PlanningProblem, widths: Widths, limit: int | None, bound: float | None) -> Plan:
    analysis = problem.analysis
    cost = total_cost(analysis.terms, widths)
    comparable = analysis.unit == "nats"
    return Plan(
        kind=problem.kind,
        requested=limit,
        achieved=cost.of(problem.kind),
        source=problem.source,
        **{kind: cost.of(kind) for kind in KINDS},
        damage=_digits(problem.damage(widths)) if comparable else None,
        bound=_digits(bound) if comparable and bound is not None else None,
        sites={
            name: SitePlan(
                width=widths[name],
                of=analysis.widths[name],
                groups=_groups(analysis, name),
                reason=site_reason(problem, name, widths),
            )
            for name in analysis.widths
        },
    )


def _groups(analysis: Analysis, name: str) -> int | None:
    """Groups of a site whose number of groups no other site tells."""
    axis, _ = site_place(name)
    if axis not in INNER_AXES or (axis in ("qk", "v") and site_beside(name, "heads") in analysis.widths):
        return None
    return analysis.groups[name] if analysis.groups[name] > 1 else None


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
