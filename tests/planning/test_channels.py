"""The channels that lose least at a budget."""

from itertools import product

import numpy as np
import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.planning.channels import StageCosts
from prune_realloc.planning.curves import LAW, Curve, with_rule
from prune_realloc.planning.rules import least
from prune_realloc.planning.sizing import Sizing, uniform_start
from prune_realloc.recipe.target import Target, TargetRule

SMALL = Target(img_size=32, in_chans=3, num_classes=10, stem_strides=(2, 2))
STEEP = Curve(((1, 3.0), (20, 1.0), (40, 0.02)))


def costs_of(limit, kind="macs", **rules):
    target = SMALL.model_copy(update={"rules": rules})
    return StageCosts(Sizing(target, uniform_start(target), least(target)), kind, limit)


@pytest.mark.parametrize("curves", [(LAW,) * 3, (STEEP,) * 3, (STEEP, LAW, LAW)])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_the_search_is_exact(curves, kind):
    limit = {"macs": 1_000_000, "params": 60_000}[kind]
    costs = costs_of(limit, kind, v=TargetRule(ratio=1.0))
    found = costs.best(curves)
    every = [
        embed
        for embed in product(range(8, 64, 8), range(8, 96, 8), range(8, 200, 8))
        if 0.99 * limit <= costs.shape(embed).cost(kind) <= limit
    ]
    lost = {embed: sum(float(c.loss([e])[0]) for c, e in zip(curves, embed, strict=True)) for embed in every}
    assert lost[found.embed] == pytest.approx(min(lost.values()), rel=1e-12)


def test_a_recipe_s_curves_stay_under_a_seed_that_the_rule_does_not_read():
    given = SMALL.model_copy(update={"rule": "stream", "curves": (STEEP.points,)})
    assert with_rule(given.model_copy(update={"seed": 1}), given, None)[0]["curves"] == given.curves
    swapped = given.model_copy(update={"rule": "swapped"})
    assert with_rule(swapped.model_copy(update={"seed": 1}), swapped, None)[0]["curves"] is None


def test_a_stage_whose_curve_loses_more_gets_more_channels():
    worse = Curve(tuple((at, 10 * lost) for at, lost in STEEP.points))
    costs = costs_of(2_000_000)
    for stage in range(3):
        curves = [worse if place == stage else STEEP for place in range(3)]
        assert costs.best(curves).embed[stage] >= costs.best((STEEP,) * 3).embed[stage]


def test_budgets_that_the_rules_do_not_leave_are_refused():
    with pytest.raises(InputError, match="macs: the budget of 1,000 is below the least that the rules allow"):
        costs_of(1_000)
    with pytest.raises(InputError, match="with everything inside blocks at its least, below the budget"):
        costs_of(
            500_000_000, embed=TargetRule(ceiling=16), **{a: TargetRule(ceiling=16) for a in ("qk", "v", "ffn")}
        ).best((LAW,) * 3)


def test_a_curve_goes_through_its_points_and_on_as_its_last_slope():
    assert STEEP.loss([1, 20, 40]) == pytest.approx([3, 1, 0.02])
    assert STEEP.loss([80])[0] == pytest.approx(0.02 * 0.02)  # twice the channels: as from 20 to 40
    assert (np.diff(STEEP.loss(range(1, 500))) < 0).all()
    assert LAW.loss([7, 300]) == pytest.approx([1 / 7, 1 / 300])
