"""Whether heads and blocks should go too, where nobody said what may go. No torch here."""

from __future__ import annotations

from typing import get_args

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.structure import OUTER_AXES, site_place
from prune_realloc.planning.choices import movable_axes
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe, RecipeAxis
from prune_realloc.recipe.plan import Plan

_MATTERS = 0.01
"""Nats per image: less is hardly seen in accuracy, whatever would save it."""
_LESS = 0.7
"""A plan promises to keep more where it is foretold to lose at most this share of the other's damage."""


def with_all_axes(analysis: Analysis, recipe: Recipe, done: Plan) -> Recipe | None:
    """The recipe with all that the network can be cut by; None: its axes are named, nothing else can go, or the plan
    that it has without, `done`, hardly loses anything.

    Streams that somebody reads (`movable_axes`: of a part of a network, or of features) stay, and their blocks.
    """
    if "axes" in recipe.model_fields_set or recipe.allocation != "damage" or (done.damage or 0) < _MATTERS:
        return None
    default = movable_axes(analysis, recipe)
    present = {site_place(name)[0] for name in analysis.widths}
    if "embed" not in default:
        present -= set(OUTER_AXES)
    axes = tuple(axis for axis in get_args(RecipeAxis) if axis in present)
    return None if {*axes} <= {*default} else recipe.model_copy(update={"axes": axes})


def promises_more(wider: Plan, done: Plan) -> bool:
    """Is the first foretold to keep clearly more than the second?"""
    return wider.damage is not None and done.damage is not None and wider.damage <= _LESS * done.damage


def all_axes_notes(analysis: Analysis, recipe: Recipe, done: Recipe, table: LatencyTable | None) -> tuple[str, ...]:
    """What to say beside a plan by default axes, where heads or blocks are foretold to save much of its damage.

    Args:
        recipe: before it was planned.
        done: the same with its plan.
        table: where time is limited.
    """
    if done.plan is None or (wider := with_all_axes(analysis, recipe, done.plan)) is None:
        return ()
    try:
        other = plan(analysis, wider, table)
    except InputError:
        return ()
    if not promises_more(other, done.plan):
        return ()
    return (
        f"what is not named stays whole, and more is foretold to be kept at this budget with --axes "
        f"{','.join(wider.axes)}: {other.damage:.2g} nats per image are lost in place of {done.plan.damage:.2g}",
    )
