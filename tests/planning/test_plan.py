"""Plans at a budget, whatever the allocation."""

import numpy as np
import pytest
from support.analyses import CLASSES, DEIT_S, INNER, PATCH, VIT_L, damage_of, macs_of, make_analysis, widths_of

from prune_realloc.core.cost import total_cost
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import load_recipe


def test_the_toy_is_as_large_as_deit_small(deit_s):
    assert deit_s.cost().params == 22_050_664
    assert deit_s.cost().macs == macs_of(deit_s.widths, 197)


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
@pytest.mark.parametrize("axes", [INNER, (*INNER, "embed"), (*INNER, "heads")], ids="+".join)
def test_the_budget_is_met_and_used(deit_s, allocation, axes):
    for kind, shares in (("keep_macs", (0.3, 0.38, 0.5, 0.71, 0.9)), ("keep_params", (0.4, 0.7))):
        for share in shares:
            planned = plan(deit_s, Recipe(budget={kind: share}, allocation=allocation, axes=axes))
            source = deit_s.cost().macs if kind == "keep_macs" else deit_s.cost().params
            assert source * share - 1 < planned.requested <= source * share
            assert planned.requested * 0.99 <= planned.achieved <= planned.requested
            cost = total_cost(deit_s.terms, widths_of(planned))
            assert (planned.macs, planned.params) == (cost.macs, cost.params)
            assert planned.macs == macs_of(widths_of(planned), 197)
            assert planned.achieved == (planned.macs if kind == "keep_macs" else planned.params)
            assert planned.kind == kind.removeprefix("keep_")
            assert planned.source == source
            assert (planned.bound is None) == (allocation != "damage")


def test_damage_loses_less_than_the_same_everywhere(deit_s):
    lost = {
        allocation: plan(deit_s, Recipe(budget={"keep_macs": 0.5}, allocation=allocation)).damage
        for allocation in ("damage", "per-axis", "uniform")
    }
    assert lost["damage"] < lost["per-axis"] < lost["uniform"]


def test_same_inputs_same_plan(deit_s):
    for allocation in ("damage", "uniform", "per-axis"):
        recipe = Recipe(budget={"keep_macs": 0.5}, allocation=allocation, axes=(*INNER, "heads", "embed", "block"))
        assert plan(deit_s, recipe) == plan(make_analysis(**DEIT_S), recipe)


@pytest.mark.parametrize("axes", [INNER, (*INNER, "heads", "block"), (*INNER, "embed")], ids="+".join)
def test_a_large_network_is_planned(axes):
    planned = plan(make_analysis(**VIT_L), Recipe(budget={"keep_macs": 0.5}, axes=axes))
    assert planned.requested * 0.99 <= planned.achieved <= planned.requested
    assert planned.bound <= planned.damage <= planned.bound * 1.02


def test_a_block_that_goes_takes_all_its_sites(deit_s):
    cheap = {f"blocks.{i}": np.array([1e-6, 0.0]) for i in (2, 7)}
    analysis = make_analysis(**DEIT_S, curves=cheap)
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.6}, axes=(*INNER, "heads", "block")))
    widths = widths_of(planned)
    for i in range(12):
        inside = [widths[f"blocks.{i}.{axis}"] for axis in ("heads", "qk", "v", "ffn")]
        assert (widths[f"blocks.{i}"] == 0) == (not any(inside)) == (not all(inside)), i
    assert widths["blocks.2"] == widths["blocks.7"] == 0
    assert planned.damage == pytest.approx(damage_of(analysis, widths), rel=1e-3)
    # biases and norms go with it: 6 * 384 parameters that belong to no other site
    blocks = sum(widths[f"blocks.{i}"] for i in range(12))
    outside = 384 * (PATCH + 2 + 197 + 2 + CLASSES) + CLASSES
    inside = sum(
        widths[f"blocks.{i}.heads"] * (770 * widths[f"blocks.{i}.qk"] + 769 * widths[f"blocks.{i}.v"])
        + 769 * widths[f"blocks.{i}.ffn"]
        for i in range(12)
    )
    assert planned.params == outside + inside + blocks * 6 * 384


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
def test_blocks_alone_can_meet_a_budget(allocation):
    # ten of twelve blocks; which ones is told by their curves only where damage counts
    losses = {f"blocks.{i}": np.array([0.001 if i in (3, 8) else 1.0, 0.0]) for i in range(12)}
    analysis = make_analysis(**DEIT_S, curves=losses)
    ten = macs_of(analysis.widths | {f"blocks.{i}.{a}": 0 for i in (3, 8) for a in ("heads", *INNER)}, 197)
    planned = plan(analysis, Recipe(budget={"macs": ten * 1001 // 1000}, axes=("block",), allocation=allocation))
    gone = [i for i in range(12) if not planned.sites[f"blocks.{i}"].width]
    assert planned.achieved == ten
    assert gone == ([0, 1] if allocation == "uniform" else [3, 8])
    for i in range(12):
        assert planned.sites[f"blocks.{i}.ffn"].width == (0 if i in gone else 1536)


def test_the_stream_narrows_in_multiples():
    easy = {"embed": 1e-6 * np.linspace(1, 0, 385)}
    for multiple, rule in ((8, {}), (48, {"round_to": 48})):
        recipe = Recipe(budget={"keep_macs": 0.5}, axes=(*INNER, "embed"), rules={"embed": rule} if rule else {})
        planned = plan(make_analysis(**DEIT_S, curves=easy), recipe)
        assert planned.sites["embed"].width % multiple == 0
        assert planned.sites["embed"].width < 384


def test_a_stream_too_narrow_for_the_budget_is_no_plan():
    # at 8 of 16 the whole network costs less than the budget; at 12 it can be met
    easy = {"embed": 1e-9 * np.linspace(1, 0, 17)}
    analysis = make_analysis(B=2, D=16, H=2, K=32, F=512, N=100, curves=easy)
    limit = macs_of(analysis.widths | {"embed": 12}, 100) - 1000
    assert macs_of(analysis.widths | {"embed": 8}, 100) < 0.9 * limit
    planned = plan(analysis, Recipe(budget={"macs": limit}, axes=(*INNER, "embed")))
    assert planned.achieved >= 0.99 * limit


@pytest.mark.parametrize(("name", "axis"), [("ffn_half", "ffn"), ("qk_half", "qk")])
def test_the_recipes_of_one_axis_halve_it_in_every_block_and_leave_the_rest(deit_s, name, axis):
    planned = widths_of(plan(deit_s, load_recipe(name)))
    changed = {site: width for site, width in planned.items() if width != deit_s.widths[site]}
    assert changed == {site: width // 2 for site, width in deit_s.widths.items() if site.endswith(f".{axis}")}
