"""What helps where a budget cannot be met: the budgets next to it, and what would leave more to choose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.prices import total
from prune_realloc.core.structure import AXES, OUTER_AXES, site_place, without_dropped_blocks
from prune_realloc.planning.choices import FLOORS, PlanningProblem
from prune_realloc.planning.extremes import a_step_wider, cheapest, dearest

_NAMED = 3
"""So many components are named where a floor is explained."""
_TRIED = 3
"""So many costs above a budget are planned at before none is named."""


def check_budget(problem: PlanningProblem, limit: int) -> None:
    """Raises InputError where nothing would be removed, or the rules do not let the budget be met."""
    source, shown = problem.source, problem.measure.exact
    narrowest = cheapest(problem)
    least, most = problem.measure.cheap.cost(narrowest), most_of(problem)
    if limit >= most >= source:
        raise InputError(
            f"{problem.kind}: a budget of {shown(limit)} leaves the source's {shown(source)} as they are, nothing "
            "would be removed; lower it"
        )
    if least <= limit <= most:
        return
    if limit > most:
        raise InputError(
            f"{problem.kind}: the rules leave at most {shown(most)}, below the budget of {shown(limit)}; lower the "
            "budget or loosen keep, width and ceiling"
        )
    stuck = [axis for axis in AXES if axis != "block" and axis in problem.axes and _is_stuck(problem, axis)]
    what = f"{', '.join(stuck)} may not change; " if stuck else ""
    raised = ["raise the budget"] if least < source else []
    at_least = "at least " if least < problem.cost(narrowest) else ""  # whether widths that are alike are as good
    raise InputError(
        f"{problem.kind}: {shown(limit)} ({limit / source:.1%} of the source) is below the least that the rules allow, "
        f"{at_least}{shown(least)} ({least / source:.1%}{_held(problem, narrowest)}); {what}"
        f"{', or '.join([*raised, *_lower(problem)])}"
    )


def most_of(problem: PlanningProblem) -> int:
    """The most that the rules leave, or a little more."""
    return problem.measure.dear.cost(dearest(problem))


def _held(problem: PlanningProblem, narrowest: Widths) -> str:
    """What holds a floor of time or memory: the components that take most of it there."""
    if problem.measure.must_be_spent:
        return ""
    taken: dict[str, int] = {}
    left = without_dropped_blocks(narrowest)
    moment = max(problem.measure.cheap.moments, key=lambda prices: total(prices, narrowest), default=())
    for price in (*problem.prices, *moment):
        taken[price.component] = taken.get(price.component, 0) + price.at(left)
    largest = sorted(taken, key=lambda component: -taken[component])[:_NAMED]
    return f": {', '.join(f'{component} {problem.measure.short(taken[component])}' for component in largest)}"


def too_coarse(
    problem: PlanningProblem, limit: int, widths: Widths, spent_at: Callable[[int], Widths | None]
) -> InputError:
    """What to say where the widths that were found spend too little of the budget.

    Args:
        spent_at: a budget -> the widths that meet it, if any do.
    """
    near = [budget for budget in _next_to(problem, limit, widths) if _is_met(problem, budget, spent_at)]
    shares = " and ".join(f"{budget / problem.source:.1%}" for budget in near)
    shown = problem.measure.exact
    take = [f"take a budget that can be met ({shares} of the source)"] if near else []
    return InputError(
        f"{problem.kind}: {shown(limit)} asked for, {shown(problem.cost(widths))} is the nearest below that the "
        f"multiples allow ({_steps(problem)}); {', or '.join([*take, *_finer(problem)])}"
    )


def _next_to(problem: PlanningProblem, limit: int, widths: Widths) -> list[int]:
    """Budgets, in whole thousandths of the source: of what the widths cost, and of the next costs above `limit`."""
    above = sorted({cost for cost in map(problem.cost, a_step_wider(problem, widths)) if cost > limit})[:_TRIED]
    thousandths = [-(-1000 * cost // problem.source) for cost in (problem.cost(widths), *above)]
    return [each * problem.source // 1000 for each in thousandths if each < 1000]


def _is_met(problem: PlanningProblem, budget: int, spent_at: Callable[[int], Widths | None]) -> bool:
    found = spent_at(budget)
    return found is not None and problem.enough(budget) <= problem.cost(found) <= budget


def _steps(problem: PlanningProblem) -> str:
    """The steps in which widths move, by axis."""
    axes = [(site_place(name)[0], name) for name in _moving(problem)]
    steps = {"whole blocks" if axis == "block" else f"{axis} {problem.multiple(name)}" for axis, name in axes}
    return ", ".join(sorted(steps))


def _finer(problem: PlanningProblem) -> list[str]:
    """What would make the steps shorter."""
    return _less_rounding(problem, _moving(problem)) + _more_axes(problem)


def _lower(problem: PlanningProblem) -> list[str]:
    """What would let the network cost less."""
    names = [name for name in problem.choices if site_place(name)[0] in problem.axes]
    found = []
    if any(problem.rules[name].floor is not None or site_place(name)[0] in FLOORS for name in names):
        found.append("lower floors")
    if any(problem.rules[name].freeze or problem.rules[name].fixes_width for name in names):
        found.append("loosen freeze, keep and width")
    whole = [name for name in names if problem.choices[name] == [problem.analysis.widths[name]]]
    return found + _less_rounding(problem, whole) + _more_axes(problem)


def _less_rounding(problem: PlanningProblem, names: Sequence[str]) -> list[str]:
    """A remedy where widths of these sites are multiples of more than the network needs."""
    needed, rounded = problem.analysis.multiples, set()
    for name in names:
        axis, rule = site_place(name)[0], problem.rules[name]
        if axis != "block" and not (rule.freeze or rule.fixes_width) and problem.multiple(name) > needed.get(name, 1):
            rounded.add(axis)
    return [f"lower round_to of {', '.join(axis for axis in AXES if axis in rounded)}"] if rounded else []


def _more_axes(problem: PlanningProblem) -> list[str]:
    present = {site_place(name)[0] for name in problem.choices}
    reach = [axis for axis in AXES if axis in present and axis not in problem.axes]
    if problem.analysis.model.get("inside"):  # the network around reads these
        reach = [axis for axis in reach if axis not in OUTER_AXES]
    return [f"add some of {', '.join(reach)} to axes"] if reach else []


def _moving(problem: PlanningProblem) -> list[str]:
    return [name for name, choices in problem.choices.items() if len(choices) > 1]


def _is_stuck(problem: PlanningProblem, axis: str) -> bool:
    names = [name for name in problem.choices if site_place(name)[0] == axis]
    return bool(names) and all(len(problem.choices[name]) == 1 for name in names)
