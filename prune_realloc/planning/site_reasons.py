"""Why each site of a plan has its width, and why a plan allocates as it does, in words."""

from __future__ import annotations

from prune_realloc.core.cost import Widths
from prune_realloc.core.structure import site_name, site_place
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.recipe.document import COMPARABLE_SCORERS, Recipe


def site_reason(problem: PlanningProblem, name: str, widths: Widths) -> str:
    """Why a site has its width."""
    axis, block = site_place(name)
    width, whole, rule = widths[name], problem.analysis.widths[name], problem.rules[name]
    if axis != "block" and block is not None and not widths.get(site_name("block", block), 1):
        return "its block goes"
    if rule.freeze:
        return "frozen"
    if rule.fixes_width:
        return f"rule: width {rule.width}" if rule.width is not None else f"rule: keep {rule.keep:g}"
    if problem.recipe.budget is None or axis not in problem.axes:
        if width < whole:
            return f"rule: ceiling {rule.ceiling}"
        return "no rule asks for a cut" if problem.recipe.budget is None else f"{axis} is not among the axes to cut"
    if width == whole:
        return _kept(problem, name, widths)
    given = f"{_worth(problem, name, width)}, saves {_saved(problem, name, widths)}"
    if width == problem.choices[name][-1] and axis != "block":
        return f"{given}; at its floor {width}"
    if rule.ceiling is not None and width == problem.choices[name][0]:
        return f"{given}; at its ceiling {rule.ceiling}"
    multiple = problem.multiple(name)
    return f"{given}; multiple of {multiple}" if multiple > 1 else given


def allocation_note(recipe: Recipe) -> str | None:
    """What must be said where the scorer decided on the allocation, because the recipe leaves it open."""
    if "allocation" in recipe.model_fields_set or recipe.budget is None or recipe.scorer in COMPARABLE_SCORERS:
        return None
    return (
        f"allocation: {recipe.allocation}, because scores of {recipe.scorer} cannot be compared across axes: "
        "each axis gives up the same share"
    )


def _kept(problem: PlanningProblem, name: str, widths: Widths) -> str:
    """Why nothing goes: what the next narrower width would give up, and for how little."""
    smaller = next((width for width in problem.choices[name] if width < widths[name]), None)
    if smaller is None:
        return "no narrower width is allowed"
    less = problem.measure.short(problem.cost(widths) - problem.cost(dict(widths) | {name: smaller}))
    return f"kept; {smaller} would {_worth(problem, name, smaller, verbs=('give up', 'keep'))} for {less}"


def _worth(problem: PlanningProblem, name: str, width: int, verbs: tuple[str, str] = ("gives up", "keeps")) -> str:
    """What a width of a site means: damage in nats, or the share of its score that stays."""
    curve, (gives_up, keeps) = problem.curves[name], verbs
    if problem.analysis.unit == "nats":
        return f"{gives_up} {curve[width]:.2g} nats"
    if not width:
        return f"{gives_up} all of its {problem.analysis.scorer}"
    share = 1 - curve[width] / curve[0] if curve[0] else 1.0
    return f"{keeps} {100 * share:.0f} % of its {problem.analysis.scorer}"


def _saved(problem: PlanningProblem, name: str, widths: Widths) -> str:
    """What the cut of a site saves, all other widths as planned; a block takes all its sites with it."""
    axis, block = site_place(name)
    before = {
        other: width
        for other, width in problem.analysis.widths.items()
        if other == name or (axis == "block" and site_place(other)[1] == block)
    }
    less = problem.measure.short(problem.cost(dict(widths) | before) - problem.cost(widths))
    return f"{less} {problem.kind}" if problem.measure.must_be_spent else less
