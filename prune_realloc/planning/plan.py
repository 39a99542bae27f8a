"""From damage curves and a budget to widths, each with its reason. No torch here.

Every site has a curve: the damage (nats per image) of keeping only w of its units. Costs are sums of products of
widths, so with the stream's width given, a block's attention and its FFN are independent choices with a cost and a
damage each: a multiple-choice knapsack. Dynamic programming over the cost solves it; multiples, floors and ceilings
only thin out the choices, so they are part of the solution and not of a rounding after it. Putting a price on cost
gives a bound that no plan can beat (the linear relaxation), which is stated beside the plan.
"""

from __future__ import annotations

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, site_name, site_place
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.knapsack import least_damage
from prune_realloc.planning.uniform import shared_shares
from prune_realloc.recipe.document import Plan, Recipe, SitePlan


def plan(analysis: Analysis, recipe: Recipe) -> Plan:
    """The widths of every site under the recipe's budget and rules.

    Raises:
        InputError: the budget cannot be met, nothing would be removed, or damage is to be compared across sites
            where it cannot be; the message says what binds.
    """
    house = PlanningProblem(analysis, recipe)
    if recipe.budget is None:
        widths, bound, limit = house.by_rule(), None, None
    else:
        limit = recipe.budget.limit(house.source.macs, house.source.params)
        house.check_budget(limit)
        if recipe.allocation == "damage":
            widths, bound = least_damage(house, limit)
        else:
            widths, bound = shared_shares(house, limit, recipe.allocation), None
    if widths == dict(analysis.widths):
        raise InputError(
            "the plan removes nothing: every rule and budget leaves each width as it is; lower the budget "
            "or a rule's keep"
        )
    blocks = [width for name, width in widths.items() if site_place(name)[0] == "block"]
    if blocks and not any(blocks):
        raise InputError(f"{house.kind}: at {limit:,} no block would be left; raise the budget, or freeze a block")
    cost = total_cost(analysis.terms, widths)
    achieved = house.count(cost)
    if limit is not None and not house.enough(limit) <= achieved <= limit:
        raise InputError(
            f"{house.kind}: {limit:,} asked for, {achieved:,} is the nearest below that the multiples "
            f"allow ({house.coarsest()}); lower a rule's round_to, or add to axes"
        )
    comparable = analysis.unit == "nats"
    return Plan(
        kind=house.kind,
        requested=limit,
        achieved=achieved,
        source=house.count(house.source),
        macs=cost.macs,
        params=cost.params,
        damage=_digits(house.damage(widths)) if comparable else None,
        bound=_digits(bound) if comparable and bound is not None else None,
        sites={
            name: SitePlan(
                width=widths[name],
                of=analysis.widths[name],
                groups=_groups(analysis, name),
                reason=house.reason(name, widths),
            )
            for name in analysis.widths
        },
    )


def _groups(analysis: Analysis, name: str) -> int | None:
    """Groups of a site whose number of groups no other site tells."""
    axis, block = site_place(name)
    if axis not in INNER_AXES or (axis != "ffn" and site_name("heads", block) in analysis.widths):
        return None
    return analysis.groups[name] if analysis.groups[name] > 1 else None


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
