"""The widths that rules leave, and what cannot be done under them."""

import dataclasses
import re

import numpy as np
import pytest
from support.analyses import (
    DEIT_S,
    INNER,
    any_spending,
    macs_of,
    make_analysis,
    of_axis,
    widths_of,
)

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term
from prune_realloc.core.errors import InputError
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe


def obeys(widths, of, low, high, multiple):
    return all(low <= w <= high and (w % multiple == 0 or w == of) for w in widths)


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
def test_multiples_and_bounds_hold(deit_s, allocation):
    rules = {
        "qk": {"round_to": 12, "floor": 20, "ceiling": 50},
        "v": [{"floor": 40}, {"blocks": "3-5", "floor": 57}],  # between 57 and 64 there is only 64
        "ffn": [{"round_to": 100, "ceiling": 1000}, {"blocks": [0, 1], "ceiling": 700}],
    }
    planned = plan(deit_s, Recipe(budget={"keep_macs": 0.52}, allocation=allocation, rules=rules))
    assert obeys(of_axis(planned, "qk"), 64, 24, 48, 12)
    assert obeys(of_axis(planned, "v"), 64, 40, 64, 8)
    assert of_axis(planned, "v")[3:6] == [64, 64, 64]
    assert obeys(of_axis(planned, "ffn"), 1000, 100, 1000, 100)
    assert max(of_axis(planned, "ffn")[:2]) <= 700


def test_without_round_to_the_multiple_leaves_four_widths():
    shape = dict(B=1, D=64, H=3, K=16, F=60, N=5)
    analysis = make_analysis(**shape)
    for keep in (0.94, 0.9, 0.85):
        with any_spending():
            planned = plan(analysis, Recipe(budget={"keep_macs": keep}, axes=(*INNER, "embed", "heads")))
        widths = widths_of(planned)
        assert widths["embed"] % 8 == 0
        assert widths["blocks.0.qk"] % 4 == widths["blocks.0.v"] % 4 == 0  # 16 / 8 were two widths
        assert widths["blocks.0.ffn"] % 8 == 0 or widths["blocks.0.ffn"] == 60


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
def test_what_is_frozen_stays(deit_s, allocation):
    rules = {"ffn": {"blocks": "0,3-5", "freeze": True}, "qk": {"freeze": True}, "embed": {"freeze": True}}
    axes = (*INNER, "embed", "heads")
    planned = plan(deit_s, Recipe(budget={"keep_macs": 0.6}, allocation=allocation, rules=rules, axes=axes))
    for i, width in enumerate(of_axis(planned, "ffn")):
        assert (width == 1536) == (i in (0, 3, 4, 5)), i
    assert of_axis(planned, "qk") == [64] * 12
    assert of_axis(planned, "embed") == [384]
    assert min(of_axis(planned, "heads")) < 6


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
def test_keep_and_width_act_on_any_axis(deit_s, allocation):
    rules = {
        "qk": {"width": 17},  # exact: no multiple
        "v": {"keep": 0.6, "round_to": 16},  # 38.4, between 32 and 48
        "heads": [{"blocks": 7, "width": 5}],
        "embed": {"keep": 0.5},
    }
    planned = plan(deit_s, Recipe(budget={"keep_macs": 0.3}, allocation=allocation, rules=rules, axes=("ffn",)))
    assert of_axis(planned, "qk") == [17] * 12
    assert of_axis(planned, "v") == [32] * 12
    assert of_axis(planned, "heads") == [6] * 7 + [5] + [6] * 4
    assert of_axis(planned, "embed") == [192]
    assert planned.requested * 0.99 <= planned.achieved <= planned.requested


def test_rules_need_no_budget(deit_s):
    rules = {"qk": {"width": 16}, "ffn": {"keep": 0.5}, "v": {"blocks": 0, "ceiling": 35}, "heads": {"keep": 0.5}}
    planned = plan(deit_s, Recipe(rules=rules))
    assert of_axis(planned, "qk") == [16] * 12
    assert of_axis(planned, "ffn") == [768] * 12
    assert of_axis(planned, "v") == [32] + [64] * 11
    assert of_axis(planned, "heads") == [3] * 12
    assert planned.requested is planned.bound is None
    assert planned.achieved == planned.macs == macs_of(widths_of(planned), 197)
    # magnitudes do not compare, but rules do not compare
    by_weight = dataclasses.replace(deit_s, unit="magnitude", scorer="magnitude")
    assert widths_of(plan(by_weight, Recipe(rules=rules))) == widths_of(planned)


@pytest.mark.parametrize(
    ("rule", "width"),
    [
        ({"keep": 0.5}, 32),
        ({"keep": 0.01}, 8),
        ({"keep": 0.01, "floor": 10, "round_to": 8}, 16),  # the floor is no multiple
        ({"keep": 0.9, "ceiling": 50}, 48),
        ({"keep": 0.9, "round_to": 30}, 60),
        ({"keep": 0.99, "round_to": 60}, 64),  # all is always allowed
        ({"keep": 0.4, "round_to": 1}, 26),  # 25.6
    ],
    ids=str,
)
def test_keep_takes_the_nearest_allowed_width(deit_s, rule, width):
    planned = plan(deit_s, Recipe(rules={"qk": rule, "v": {"width": 8}}))
    assert of_axis(planned, "qk") == [width] * 12


def test_later_rules_override(deit_s):
    rules = {
        "qk": [{"width": 16}, {"blocks": "4-11", "keep": 0.5}, {"blocks": 11, "freeze": True}],
        "v": [{"freeze": True}, {"blocks": 0, "width": 24}],
        "ffn": [{"keep": 0.5, "round_to": 256}, {"blocks": 2, "keep": 0.34}, {"blocks": 3, "round_to": 6}],
    }
    planned = plan(deit_s, Recipe(rules=rules))
    assert of_axis(planned, "qk") == [16] * 4 + [32] * 7 + [64]
    assert of_axis(planned, "v") == [24] + [64] * 11
    assert of_axis(planned, "ffn") == [768, 768, 512] + [768] * 9
    assert planned.sites["blocks.11.qk"].reason == "frozen"


def test_a_frozen_block_stays():
    cheap = {f"blocks.{i}": np.array([1e-6, 0.0]) for i in range(12)}
    analysis = make_analysis(**DEIT_S, curves=cheap)
    axes, rules = (*INNER, "block"), {"block": {"blocks": 5, "freeze": True}}
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.3}, axes=axes, rules=rules))
    assert planned.sites["blocks.5"].width == 1
    assert planned.sites["blocks.5.ffn"].width >= 8
    assert planned.sites["blocks.5"].reason == "frozen"


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (
            dict(budget={"keep_macs": 0.02}, axes=INNER),
            r"2\.0% of the source\) is below the least .*%\); raise the budget, or add some of embed, block, heads",
        ),
        (
            dict(budget={"keep_macs": 0.4}, axes=INNER, rules={"ffn": {"floor": 1200}}),
            r"below the least .*\d%\).*lower floors",
        ),
        (dict(budget={"keep_macs": 1.0}), r"macs: a budget of [\d,]+ leaves .* nothing would be removed"),
        (dict(budget={"params": "1G"}), r"params: a budget of 1,000,000,000 leaves .* nothing would be removed"),
        (dict(rules={"qk": {"keep": 1.0}}), "the plan removes nothing"),
        (
            dict(budget={"keep_macs": 0.9}, axes=INNER, rules={a: {"freeze": True} for a in INNER}),
            "qk, v, ffn may not change; loosen freeze",
        ),
        (dict(budget={"keep_macs": 0.9}, rules={"ffn": {"width": 8}}), "the rules leave at most .* below the budget"),
        (
            dict(rules={"ffn": {"blocks": "12-20", "keep": 0.5}}),
            "rules.ffn: blocks 12-20 are not in this model, which has 0-11",
        ),
        (dict(rules={"qk": {"width": 80}}), r"rules\.qk\.width: 80 is more than the 64 of blocks\.0\.qk"),
        (
            dict(budget={"keep_macs": 0.5}, rules={"v": {"floor": 9, "ceiling": 15, "round_to": 8}}),
            r"rules\.v: no multiple of 8 lies between 9 and 15 for blocks\.0\.v",
        ),
        (dict(rules={"v": {"keep": 0.2, "floor": 9, "ceiling": 15, "round_to": 8}}), "no multiple of 8 lies"),
        (dict(rules={"v": {"floor": 9, "ceiling": 15}, "qk": {"width": 8}}), "no multiple of 8 lies"),
        (dict(budget={"keep_macs": 0.55}, axes=("block",)), r"asked for, .* is the nearest .*\(whole blocks\)"),
        (dict(budget={"keep_macs": 0.87}, axes=("heads",), rules={"heads": {"round_to": 3}}), r"nearest .*\(heads 3\)"),
        (dict(budget={"keep_macs": 0.55}, axes=("embed",), rules={"embed": {"round_to": 128}}), r"nearest.*embed 128"),
        (dict(budget={"keep_macs": 0.014}, axes=(*INNER, "block")), "no block would be left"),
    ],
    ids=str,
)
def test_what_cannot_be_done_says_why(deit_s, recipe, complaint):
    for allocation in ("damage", "uniform", "per-axis"):
        with pytest.raises(InputError, match=complaint) as error:
            plan(deit_s, Recipe(**recipe, allocation=allocation))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
@pytest.mark.parametrize("axis", ["block", "heads"])
def test_budgets_between_whole_blocks_or_heads_name_those_next_to_them_that_can_be_met(deit_s, axis, allocation):
    rules = {"heads": {"round_to": 3}} if axis == "heads" else {}
    asked = {"axes": (axis,), "allocation": allocation, "rules": rules}
    with pytest.raises(InputError, match="asked for") as error:
        plan(deit_s, Recipe(budget={"keep_macs": 0.555 if axis == "block" else 0.87}, **asked))
    said = str(error.value)
    below, above = (float(share) / 100 for share in re.findall(r"(\d+\.\d)%", said))
    for share in (below, above):
        assert plan(deit_s, Recipe(budget={"keep_macs": share}, **asked)).achieved <= share * deit_s.cost().macs
    assert ("lower round_to of heads" in said) == (axis == "heads") == ("round_to" in said)
    assert "add some of " in said
    assert f" {axis}" not in said.split("add some of ")[1]


def test_what_a_budget_needs_is_named_only_where_it_helps(deit_s):
    with pytest.raises(InputError, match=r"; raise the budget, or add some of embed, block, qk, v, ffn to axes$"):
        plan(deit_s, Recipe(budget={"keep_macs": 0.1}, axes=("heads",)))
    with pytest.raises(InputError, match=r"change; lower round_to of qk, or add some of embed, block, heads"):
        plan(deit_s, Recipe(budget={"keep_macs": 0.1}, axes=("qk",), rules={"qk": {"round_to": 64}}))
    with pytest.raises(InputError, match=r"change; loosen freeze, keep and width, or add some of"):
        plan(deit_s, Recipe(budget={"keep_macs": 0.1}, axes=("qk",), rules={"qk": {"freeze": True}}))


def test_scores_that_do_not_compare_are_refused(deit_s):
    analysis = dataclasses.replace(deit_s, unit="magnitude", scorer="magnitude")
    with pytest.raises(InputError, match=r"allocation: damage .* scorer 'magnitude'; take uniform or per-axis"):
        plan(analysis, Recipe(budget={"keep_macs": 0.5}))
    for allocation in ("uniform", "per-axis"):
        assert plan(analysis, Recipe(budget={"keep_macs": 0.5}, allocation=allocation)).damage is None


def test_an_axis_that_the_model_lacks_is_named():
    alone = Analysis(
        scores={},
        damage={"blocks.0": np.array([1.0, 0.0]), "blocks.0.ffn": np.linspace(1, 0, 401)},
        widths={"blocks.0": 1, "blocks.0.ffn": 400},
        groups={"blocks.0": 1, "blocks.0.ffn": 1},
        scorer="fisher",
        unit="nats",
        samples=1,
        seed=0,
        terms=(Term(component="ffn", sites=("blocks.0.ffn",), params=3, macs=3),),
        model={},
        data=None,
        stability={},
    )
    budget = {"keep_macs": 0.5}
    with pytest.raises(InputError, match="axes: this model has no qk, v; it has block, ffn"):
        plan(alone, Recipe(budget=budget, axes=INNER))
    assert plan(alone, Recipe(budget=budget)) == plan(alone, Recipe(budget=budget, axes=("ffn",)))
    with pytest.raises(InputError, match="rules: this model has no embed, v; it has block, ffn"):
        plan(alone, Recipe(budget=budget, axes=("ffn",), rules={"embed": {"keep": 0.5}, "v": {"keep": 0.5}}))
    assert plan(alone, Recipe(budget=budget, axes=("ffn",))).sites["blocks.0.ffn"].width == 200
    with pytest.raises(InputError, match=r"below the least that the rules allow, 1,200 .*; ffn may not change;"):
        plan(alone, Recipe(budget=budget, axes=("ffn",), rules={"ffn": {"freeze": True}}))


def test_what_a_network_needs_is_kept_besides_the_rules():
    # embed in multiples of 12 heads, whatever the rule's multiple is
    analysis = make_analysis(**DEIT_S, multiples={"embed": 12})
    for rules, multiple in (({}, 24), ({"embed": {"round_to": 16}}, 48), ({"embed": {"round_to": 1}}, 12)):
        problem = PlanningProblem(analysis, Recipe(budget={"keep_macs": 0.5}, axes=(*INNER, "embed"), rules=rules))
        assert problem.choices["embed"] == list(range(384, 0, -multiple))
        assert set(problem.choices["blocks.0.ffn"]) == set(range(8, 1537, 8))
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.5}, axes=(*INNER, "embed")))
    assert planned.sites["embed"].width % 24 == 0
    assert planned.sites["embed"].reason.endswith("multiple of 24")
    assert plan(analysis, Recipe(rules={"embed": {"keep": 0.3}})).sites["embed"].width == 120
    assert plan(analysis, Recipe(rules={"embed": {"width": 132}})).sites["embed"].width == 132
    complaint = r"rules\.embed\.width: 130 is not a multiple of 12, as embed must be; take 120 or 132"
    with pytest.raises(InputError, match=complaint):
        plan(analysis, Recipe(rules={"embed": {"width": 130}}))
