"""Where heads and blocks would save what default axes lose, and nobody has said what may go."""

import numpy as np
import pytest
from support.analyses import DEIT_S, INNER, make_analysis
from support.latency import make_table

from prune_realloc.planning.all_axes import all_axes_notes, promises_more, with_all_axes
from prune_realloc.planning.plan import plan, planned
from prune_realloc.recipe.document import Recipe

ALL = ("qk", "v", "ffn", "heads", "embed", "block")
TIGHT = Recipe(budget={"keep_latency": 0.95})


@pytest.fixture(scope="module")
def blocks_take_the_time():
    """An analysis whose blocks matter little, and a table by which hardly anything but one of them saves time."""
    spare = {f"blocks.{number}": np.array([0.002, 0.0]) for number in range(DEIT_S["B"])}
    analysis = make_analysis(**DEIT_S, curves=spare)
    return analysis, make_table(analysis, network=0.2, block=3.0, macs=5e-10, params=0.0)


def test_what_all_axes_promise_is_said_with_both_numbers(blocks_take_the_time):
    analysis, table = blocks_take_the_time
    done = planned(analysis, TIGHT, table)
    named = plan(analysis, TIGHT.model_copy(update={"axes": ALL}), table)
    assert named.damage < 0.7 * done.plan.damage
    (note,) = all_axes_notes(analysis, TIGHT, done, table)
    assert note.endswith(
        f"with --axes {','.join(ALL)}: {named.damage:.2g} nats per image are lost in place of {done.plan.damage:.2g}"
    )


@pytest.mark.parametrize(
    "recipe",
    [
        TIGHT.model_copy(update={"axes": INNER}),  # somebody has said what may go
        Recipe(budget={"keep_latency": 0.95}, allocation="uniform"),  # no damage decides
        Recipe(budget={"keep_macs": 0.5}),  # they save as much as widths do
    ],
    ids=("named", "uniform", "macs"),
)
def test_nothing_is_said_where_it_is_asked_for_or_does_not_help(blocks_take_the_time, recipe):
    analysis, table = blocks_take_the_time
    table = table if recipe.budget.limits_time else None
    assert all_axes_notes(analysis, recipe, planned(analysis, recipe, table), table) == ()


def test_streams_that_somebody_reads_stay_with_their_blocks():
    inside = make_analysis(**DEIT_S, model={"architecture": "toy", "inside": "a detector"})
    recipe = Recipe(budget={"keep_macs": 0.2})
    done = plan(inside, recipe).model_copy(update={"damage": 0.01})
    assert with_all_axes(inside, recipe, done).axes == ("qk", "v", "ffn", "heads")
    assert with_all_axes(inside, recipe, done.model_copy(update={"damage": 0.009})) is None


@pytest.mark.parametrize(
    ("wider", "done", "more"),
    [(0.35, 0.5, True), (0.36, 0.5, False), (None, 0.5, False), (0.1, None, False)],
)
def test_clearly_less_damage_is_a_promise(deit_s, wider, done, more):
    found = plan(deit_s, Recipe(budget={"keep_macs": 0.5}))
    plans = [found.model_copy(update={"damage": damage}) for damage in (wider, done)]
    assert promises_more(*plans) == more
