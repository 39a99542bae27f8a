"""Least damage over several streams: few combinations of their widths, and many."""

import itertools
import time
from math import prod
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.analyses import INNER, any_spending, make_staged, widths_of

from prune_realloc.core.cost import total_cost
from prune_realloc.planning import allocate
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.parts import blocks_of
from prune_realloc.planning.plan import plan
from prune_realloc.planning.prices import PricedNetwork
from prune_realloc.recipe.document import Recipe

SWIN_T = dict(embed=(96, 192, 384, 768), heads=(3, 6, 12, 24), depths=(2, 2, 6, 2), head=32, side=56, window=49)
SMALL = dict(embed=(8, 16), heads=(1, 2), depths=(1, 1), head=4, side=8, window=4)
STREAMS = (*INNER, "embed")


def always_priced():
    return mock.patch.object(allocate, "_FEW", 0)


def every_network(analysis, recipe):
    """Costs and damages of all networks that the recipe's choices allow, counted site by site."""
    problem = PlanningProblem(analysis, recipe)
    names = list(problem.choices)
    grid = np.meshgrid(*problem.choices.values(), indexing="ij")
    widths = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
    cost = sum(term.macs * prod((widths[s] for s in term.sites), start=np.int64(1)) for term in analysis.terms)
    return cost, sum(analysis.damage[name][widths[name]] for name in names)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7])
def test_many_streams_are_planned_in_seconds(keep):
    analysis = make_staged(**SWIN_T)
    start = time.perf_counter()
    planned = plan(analysis, Recipe(budget={"keep_macs": keep}, axes=STREAMS))
    assert time.perf_counter() - start < 10  # half a second on one core; every combination takes an hour
    assert 0.99 * planned.requested <= planned.achieved <= planned.requested
    assert planned.macs == total_cost(analysis.terms, widths_of(planned)).macs
    assert planned.bound <= planned.damage <= 1.02 * planned.bound
    even = plan(analysis, Recipe(budget={"keep_macs": keep}, axes=STREAMS, allocation="uniform"))
    assert planned.damage <= even.damage
    alone = plan(analysis, Recipe(budget={"keep_macs": keep}))
    assert planned.damage <= alone.damage


def test_many_streams_are_planned_with_heads_blocks_and_parameters():
    analysis = make_staged(**SWIN_T)
    planned = plan(analysis, Recipe(budget={"keep_params": 0.5}, axes=(*STREAMS, "heads", "block")))
    assert 0.99 * planned.requested <= planned.achieved <= planned.requested
    assert planned.bound <= planned.damage <= 1.02 * planned.bound


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), convex=st.booleans(), share=st.floats(0.1, 0.9))
def test_two_streams_are_planned_as_brute_force_would(seed, convex, share):
    analysis = make_staged(**SMALL, seed=seed, convex=convex)
    rules = {"ffn": {"round_to": 8}, "qk": {"round_to": 2}, "v": {"freeze": True}}
    recipe = Recipe(budget={"keep_macs": 0.5}, axes=STREAMS, rules=rules)
    costs, damages = every_network(analysis, recipe)
    limit = int(costs.min() + share * (costs.max() - costs.min()))
    recipe = Recipe(budget={"macs": limit}, axes=STREAMS, rules=rules)
    fits = costs <= limit * 0.999  # costs are counted in grains, rounded up
    if not fits.any():
        return
    with any_spending():
        exact = plan(analysis, recipe)
        with always_priced():
            priced = plan(analysis, recipe)
    least = damages[costs <= limit].min()
    for planned in (exact, priced):
        assert planned.achieved <= limit
        assert planned.bound <= least * 1.001 + 1e-9
        assert least * 0.999 <= planned.damage <= damages[fits].min() * 1.03 + 1e-9
    assert priced.bound <= exact.bound + 1e-9


@pytest.mark.parametrize("price", [0.0, 1e-9, 1e-7, 1e-5])
def test_the_network_at_a_price_is_that_of_brute_force(price):
    analysis = make_staged(**SMALL, convex=False)
    recipe = Recipe(budget={"keep_macs": 0.5}, axes=STREAMS, rules={a: {"round_to": 4} for a in INNER})
    costs, damages = every_network(analysis, recipe)
    problem = PlanningProblem(analysis, recipe)
    found = PricedNetwork(problem, blocks_of(problem)).at(price)
    assert found.value == pytest.approx((damages + price * costs).min(), rel=1e-9)
    assert found.cost in costs[np.isclose(damages + price * costs, found.value, rtol=1e-9)]


def test_streams_of_three_stages_are_solved_in_any_grouping():
    # few combinations: weighed one by one, or priced, the plan is the same
    analysis = make_staged(embed=(16, 32, 48), heads=(2, 2, 3), depths=(1, 1, 1), head=8, side=8, window=4)
    for keep, axes in itertools.product((0.35, 0.6, 0.85), (STREAMS, (*STREAMS, "heads"))):
        recipe = Recipe(budget={"keep_macs": keep}, axes=axes)
        with any_spending():
            exact = plan(analysis, recipe)
            with always_priced():
                priced = plan(analysis, recipe)
        assert priced.damage <= 1.02 * exact.damage
