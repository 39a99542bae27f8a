"""A network whose blocks differ: one with `hidden` only, one with two `hidden`, one with two FFNs; all the way."""

import numpy as np
import pytest
import torch
from support.analyses import any_spending
from support.convs import CLASSES, describe
from support.moments import images_of

from prune_realloc import analyze, apply, build_recipe, plan
from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import total_cost
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.reader import parse_recipe
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.runtime.networks import measured_macs

INNER = ("blocks.0.hidden", "blocks.1.hidden", "blocks.1.hidden.1", "blocks.2.ffn", "blocks.2.ffn.1")


def batches():
    labels = torch.arange(64) % CLASSES
    return list(zip(images_of(64, dtype=torch.float32).split(16), labels.split(16), strict=True))


@pytest.mark.parametrize("scorer", ["fisher", "activation", "magnitude"])
@pytest.mark.parametrize("axes", [None, ["ffn"], ["hidden"], ["hidden", "ffn", "embed", "block"]], ids=str)
def test_a_plan_is_carried_out_to_the_unit(convs, scorer, axes):
    budget = {"keep_macs": 0.75} if axes != ["ffn"] else {"keep_macs": 0.95}
    rules = {"hidden": {"round_to": 1, "floor": 1}, "ffn": {"round_to": 1}, "embed": {"round_to": 1}}
    asked = {"budget": budget, "rules": rules, "scorer": scorer, "compensate": {"rotate": False}}
    recipe = build_recipe(asked | ({} if axes is None else {"axes": axes}))
    with any_spending():  # a unit of a site is more than a hundredth of so small a network
        done = apply(recipe, model=convs, batches=batches(), timed=False)
    left = widths(find_sites(done.network))
    planned = done.recipe.plan
    assert done.recipe.axes == tuple(axes or ("ffn", "hidden"))
    assert set(done.units) == set(left)
    for name, width in left.items():
        assert width == planned.sites[done.units[name].source].width, name
    assert planned.achieved == total_cost(describe(done.network).terms, left).macs
    assert planned.achieved == measured_macs(done.network, images_of(1, dtype=torch.float32)) <= planned.requested
    again = parse_recipe(dump_recipe(done.recipe, "x"))
    twice = apply(again, model=convs, batches=batches(), timed=False)
    torch.testing.assert_close(twice.network.state_dict(), done.network.state_dict())


def test_the_second_ffn_is_cut_as_its_own_rule_of_the_plan_says(convs):
    found = analyze(convs, batches=batches())
    recipe = build_recipe({"rules": {"ffn": {"keep": 0.5}, "hidden": {"freeze": True}}})
    done = plan(found, recipe)
    sites = {**done.sites, "blocks.2.ffn.1": done.sites["blocks.2.ffn.1"].model_copy(update={"width": 10})}
    recipe = recipe.model_copy(update={"plan": done.model_copy(update={"sites": sites})})
    pruned = apply(recipe, model=convs, batches=batches(), timed=False)
    assert [len(ffn.fc1.weight) for ffn in pruned.network.blocks[2].ffns] == [16, 10]
    assert pruned.units["blocks.2.ffn.1"].of == 48


def test_an_analysis_with_several_sites_of_an_axis_comes_back(convs, tmp_path):
    found = analyze(convs, batches=batches())
    assert [name for name in found.widths if name in INNER] == [*INNER]
    assert found.groups["blocks.1.hidden.1"] == 2
    assert set(found.stability) == {"embed", "block", "ffn", "hidden"}
    assert found.taken["axes"]["value"] == ["embed", "block", "hidden", "ffn"]
    found.save(tmp_path)
    assert Analysis.load(tmp_path) == found
    for name in INNER:
        assert np.all(np.diff(found.damage[name]) <= 1e-12), name
