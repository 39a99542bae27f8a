"""Channels between convolutions, several sites of one axis in a block, and blocks that have none inside."""

import itertools

import numpy as np
import pytest
from support.analyses import INNER, UNSAID, any_spending, make_analysis, random_curve, widths_of

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term
from prune_realloc.core.errors import InputError
from prune_realloc.planning.choices import PlanningProblem, movable_axes
from prune_realloc.planning.evidence import read_evidence
from prune_realloc.planning.plan import plan, planned
from prune_realloc.planning.ranking import retention as ranked
from prune_realloc.planning.retention import _Source
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import parse_recipe
from prune_realloc.recipe.writer import dump_recipe

WIDTHS = {
    "stages.0.embed": 16,
    "stages.0.embed.1": 24,
    "blocks.0": 1,
    "blocks.0.hidden": 64,
    "blocks.1": 1,
    "blocks.1.ffn": 32,
    "blocks.1.ffn.1": 48,
    "blocks.2": 1,
}
"""Two streams in one stage; a block with `hidden` only, one with two FFNs, one with nothing that can be narrower."""
STREAMS, INSIDE = tuple(WIDTHS)[:2], ("blocks.0.hidden", "blocks.1.ffn", "blocks.1.ffn.1")
TERMS = (
    Term(component="stem", sites=STREAMS[:1], params=27, macs=270),
    Term(component="hidden", sites=(STREAMS[0], "blocks.0.hidden"), params=2, macs=20),
    Term(component="hidden", sites=("blocks.0.hidden",), params=9, macs=90),
    Term(component="stem", sites=STREAMS, params=1, macs=10),
    Term(component="ffn", sites=(STREAMS[1], "blocks.1.ffn"), params=2, macs=20),
    Term(component="ffn", sites=(STREAMS[1], "blocks.1.ffn.1"), params=2, macs=20),
    Term(component="conv", sites=(STREAMS[1], "blocks.2"), params=30, macs=300),
    Term(component="head", sites=STREAMS[1:], params=5, macs=5),
)


def mixed(seed=0, **changes):
    rng = np.random.default_rng(seed)
    values = dict(
        scores={name: rng.exponential(size=width) for name, width in WIDTHS.items()},
        damage={name: random_curve(rng, width) for name, width in WIDTHS.items()},
        widths=WIDTHS,
        groups=dict.fromkeys(WIDTHS, 1),
        terms=TERMS,
        **UNSAID,
    )
    return Analysis(**(values | changes))


def cost_of(widths):
    return PlanningProblem(mixed(), Recipe(budget={"keep_macs": 0.5})).cost(widths)


def test_without_axes_a_network_is_cut_where_it_has_something_inside():
    done = plan(mixed(), Recipe(budget={"keep_macs": 0.7}))
    narrower = {name for name, site in done.sites.items() if site.width < site.of}
    assert narrower
    assert narrower <= {*INSIDE} | {name for name in done.sites if "embed" in name}
    assert done.achieved == cost_of(widths_of(done)) <= done.requested


def test_axes_that_are_named_must_be_there():
    with pytest.raises(InputError, match="axes: this model has no qk, v; it has block, embed, ffn, hidden"):
        plan(mixed(), Recipe(budget={"keep_macs": 0.7}, axes=INNER))


def test_a_planned_recipe_says_what_was_cut_where_its_default_would_not():
    analysis, recipe = mixed(), Recipe(budget={"keep_macs": 0.7})
    done = planned(analysis, recipe)
    assert done.axes == ("ffn", "hidden", "embed")
    again = parse_recipe(dump_recipe(done, "x"))
    assert again.plan == done.plan == plan(analysis, again)
    vit = make_analysis(B=2, D=64, H=4, K=16, F=128, N=10)
    assert planned(vit, recipe).axes == (*INNER, "embed")


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, {"allocation": "uniform"}),
        ({"scorer": "activation", "unit": ""}, {"scorer": "activation"}),
        ({"model": {"inside": "backbone"}}, {}),
    ],
)
def test_streams_are_left_whole_unasked_where_damage_does_not_tell_their_cost(changes, asked):
    recipe = Recipe(budget={"keep_macs": 0.7}, **asked)
    assert movable_axes(mixed(**changes), recipe) == ("ffn", "hidden")
    vit = make_analysis(B=2, D=64, H=4, K=16, F=128, N=10)
    even = Recipe(budget={"keep_macs": 0.7}, allocation="uniform")
    assert "axes" not in planned(vit, even).model_fields_set


@pytest.mark.parametrize("allocation", ["damage", "uniform", "per-axis"])
def test_hidden_keeps_eight_and_multiples_of_eight(allocation):
    with any_spending():
        done = plan(mixed(), Recipe(budget={"keep_macs": 0.4}, allocation=allocation, axes=("hidden", "ffn")))
    assert done.sites["blocks.0.hidden"].width % 8 == 0
    assert done.sites["blocks.0.hidden"].width >= 8


@pytest.mark.parametrize(
    ("rule", "whole", "choices"),
    [
        ({}, 40, [40, 32, 24, 16, 8]),
        ({}, 12, [12, 8]),
        ({}, 6, [6]),
        ({"floor": 1, "round_to": 4}, 12, [12, 8, 4]),
        ({"ceiling": 4, "round_to": 2}, 12, [4]),
        ({"floor": 20}, 40, [40, 32, 24]),
        ({"keep": 0.1}, 40, [8]),
        ({"width": 3}, 40, [3]),
    ],
)
def test_widths_of_hidden_by_hand(rule, whole, choices):
    widths = WIDTHS | {"blocks.0.hidden": whole}
    analysis = mixed(widths=widths)
    problem = PlanningProblem(analysis, Recipe(budget={"keep_macs": 0.5}, rules={"hidden": rule}))
    assert problem.choices["blocks.0.hidden"] == choices


def test_rules_reach_every_site_of_an_axis_in_a_block():
    rules = {"ffn": {"blocks": 1, "keep": 0.5}, "hidden": {"freeze": True}}
    done = widths_of(plan(mixed(), Recipe(rules=rules)))
    assert (done["blocks.1.ffn"], done["blocks.1.ffn.1"], done["blocks.0.hidden"]) == (16, 24, 64)


def test_no_plan_is_better_than_the_one_that_is_found():
    """By trying everything that the rules allow, of two streams, three sites inside and three blocks."""
    rules = {"embed": {"round_to": 8}, "ffn": {"round_to": 16}, "hidden": {"round_to": 32}}
    recipe = Recipe(budget={"keep_macs": 0.5}, axes=("hidden", "ffn", "embed", "block"), rules=rules)
    for seed in range(6):
        analysis = mixed(seed)
        problem = PlanningProblem(analysis, recipe)
        limit = recipe.budget.limit(problem.source)
        best = np.inf
        for widths in itertools.product(*problem.choices.values()):
            given = dict(zip(problem.choices, widths, strict=True))
            if problem.cost(given) <= limit:
                alive = {n: w for n, w in given.items() if n.count(".") == 1 or given.get(n[: len("blocks.0")], 1)}
                best = min(best, sum(analysis.damage[name][width] for name, width in alive.items()))
        with any_spending():
            done = plan(analysis, recipe)
        assert done.achieved <= limit
        assert done.bound <= best * 1.001
        assert best * 0.999 <= done.damage <= best * 1.02  # costs are counted in grains


def test_a_block_with_nothing_inside_is_paid_for_and_may_go():
    curves = mixed().damage | {"blocks.2": np.array([1e-9, 0.0])}
    recipe = Recipe(budget={"keep_macs": 0.6}, axes=("hidden", "ffn", "block"))
    with any_spending():
        done = plan(mixed(damage=curves), recipe)
        dear = plan(mixed(damage=curves | {"blocks.2": np.array([1e9, 0.0])}), recipe)
    assert done.sites["blocks.2"].width == 0
    assert dear.sites["blocks.2"].width == 1
    assert cost_of(widths_of(dear)) == dear.achieved <= dear.requested


def test_a_network_of_streams_only_is_planned():
    names = STREAMS
    terms = tuple(term for term in TERMS if {*term.sites} <= {*names})
    own = {name: WIDTHS[name] for name in names}
    analysis = mixed(
        widths=own, terms=terms, groups=dict.fromkeys(own, 1), damage={n: mixed().damage[n] for n in own},
        scores={n: mixed().scores[n] for n in own},
    )  # fmt: skip
    with any_spending():
        done = plan(analysis, Recipe(budget={"keep_macs": 0.6}, axes=("embed",)))
    assert done.achieved <= done.requested
    assert ranked(analysis, 0.5) == {}


def test_what_a_blocks_ffns_keep_is_one_share():
    done = plan(mixed(), Recipe(rules={"ffn": {"keep": 0.5}}))
    sites = done.sites | {"blocks.1.ffn": done.sites["blocks.1.ffn"].model_copy(update={"width": 8})}
    assert _Source(sites).share(("ffn",), 1 / 3, 2 / 3) == pytest.approx((8 + 24) / (32 + 48))


def test_units_of_all_sites_are_ranked_together():
    kept = ranked(mixed(), 0.5)
    assert set(kept) == {*INSIDE}


def test_an_analysis_with_hidden_is_read_and_its_plan_cuts_it():
    found, _ = read_evidence(mixed(), None)
    assert found.axes == ("ffn", "hidden")
    assert set(found.plan.sites) == set(WIDTHS)
