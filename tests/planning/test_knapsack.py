"""Least damage against brute force, and what it does with a budget."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.analyses import (
    CLASSES,
    DEIT_S,
    INNER,
    PATCH,
    TINY,
    any_spending,
    damage_of,
    macs_of,
    make_analysis,
    widths_of,
)

from prune_realloc.planning import knapsack
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe


def every_network(analysis, *, embed=(16,), heads=(2,), qk=(1, 2, 3, 4), v=(1, 2, 3, 4), ffn=(2, 4, 6, 8), gone=()):
    """Costs and damages of all networks of TINY with these widths; `gone`: blocks that may go."""
    N, costs, damages = TINY["N"], [], []
    for D in embed:
        base = np.array([(PATCH * (N - 1) + CLASSES) * D]), np.array([analysis.damage["embed"][D]])
        for i in range(TINY["B"]):
            menu = [
                (
                    (2 * N * D + N * N) * h * (k + w) + 2 * N * D * f,
                    sum(
                        analysis.damage[f"blocks.{i}.{axis}"][width]
                        for axis, width in (("heads", h), ("qk", k), ("v", w), ("ffn", f))
                    ),
                )
                for h, k, w, f in itertools.product(heads, qk, v, ffn)
            ]
            if i in gone:
                menu.append((0, analysis.damage[f"blocks.{i}"][0]))
            base = tuple(np.add.outer(a, b).ravel() for a, b in zip(base, np.array(menu).T, strict=True))
        costs.append(base[0])
        damages.append(base[1])
    return np.concatenate(costs), np.concatenate(damages)


def mixed(costs, damages, limit):
    """Least damage at `limit` on the line between any two networks: the lower convex hull."""
    order = np.lexsort((damages, costs))
    front = [n for n, least in zip(order, np.minimum.accumulate(damages[order]), strict=True) if damages[n] == least]
    c, d = costs[front], damages[front]
    least = d[c <= limit].min()
    for a, b in itertools.product(np.flatnonzero(c <= limit), np.flatnonzero(c > limit)):
        least = min(least, d[a] + (d[b] - d[a]) * (limit - c[a]) / (c[b] - c[a]))
    return least


def digits(value):
    return float(f"{value:.4g}")


@pytest.mark.parametrize(
    ("axes", "allowed", "grid"),
    [
        (INNER, {}, knapsack._GRID),
        (INNER, {}, 60),  # coarse: many choices cost the same number of grains
        ((*INNER, "heads", "block"), {"heads": (1, 2), "gone": (1,)}, knapsack._GRID),
    ],
    ids=["inner", "coarse", "heads and block"],
)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), convex=st.booleans(), share=st.floats(0.02, 0.98))
def test_the_plan_is_that_of_brute_force(axes, allowed, grid, seed, convex, share):
    analysis = make_analysis(**TINY, seed=seed, convex=convex)
    costs, damages = every_network(analysis, **allowed)
    limit = int(costs.min() + share * (costs.max() - costs.min()))
    short = limit - 5 * -(-macs_of(analysis.widths, TINY["N"]) // grid)  # four parts and the budget are rounded
    if short < costs.min():
        return
    rules = {"block": {"blocks": 0, "freeze": True}}
    with any_spending(), mock.patch.object(knapsack, "_GRID", grid):
        planned = plan(analysis, Recipe(budget={"macs": limit}, axes=axes, rules=rules))
    lost = damage_of(analysis, widths_of(planned))
    best = damages[costs <= limit].min()
    assert planned.achieved == macs_of(widths_of(planned), TINY["N"]) <= limit
    assert best - 1e-12 <= lost <= damages[costs <= short].min() + 1e-12
    assert planned.damage == pytest.approx(lost, rel=1e-3)
    assert planned.bound <= min(digits(best), planned.damage)
    assert planned.bound == pytest.approx(mixed(costs, damages, limit), rel=1e-3, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), convex=st.booleans(), share=st.floats(0.05, 0.95))
def test_the_bound_holds_for_every_stream_width(seed, convex, share):
    analysis = make_analysis(**TINY, seed=seed, convex=convex)
    costs, damages = every_network(analysis, embed=(4, 8, 12, 16))
    limit = int(costs.min() + share * (costs.max() - costs.min()))
    with any_spending():
        planned = plan(analysis, Recipe(budget={"macs": limit}, axes=(*INNER, "embed")))
    best = damages[costs <= limit].min()
    assert planned.bound <= digits(best) <= digits(damage_of(analysis, widths_of(planned)))
    assert widths_of(planned)["embed"] in (4, 8, 12, 16)


@pytest.mark.parametrize("axes", [INNER, (*INNER, "heads", "block")], ids=["inner", "heads and block"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), convex=st.booleans())
def test_more_budget_never_loses_more(axes, seed, convex):
    analysis = make_analysis(**TINY, seed=seed, convex=convex)
    source = macs_of(analysis.widths, TINY["N"])
    least = macs_of(analysis.widths | {f"blocks.{i}.{a}": 2 for i in (0, 1) for a in INNER}, TINY["N"])
    rules = {"block": {"blocks": 0, "freeze": True}}
    budgets = np.linspace(least, source - 1, 30).astype(int)
    with any_spending():
        plans = [plan(analysis, Recipe(budget={"macs": int(macs)}, axes=axes, rules=rules)) for macs in budgets]
    lost = [damage_of(analysis, widths_of(planned)) for planned in plans]
    assert all(more <= less + 1e-12 for less, more in itertools.pairwise(lost))
    assert lost[-1] < lost[0]


@pytest.mark.parametrize("axes", [INNER, (*INNER, "heads", "block")], ids=["inner", "heads and block"])
def test_a_budget_is_used_where_nothing_is_lost(axes):
    free = {name: np.zeros(width + 1) for name, width in make_analysis(**DEIT_S).widths.items()}
    planned = plan(make_analysis(**DEIT_S, curves=free), Recipe(budget={"keep_macs": 0.7}, axes=axes))
    assert planned.achieved >= 0.999 * planned.requested
    assert planned.damage == planned.bound == 0


def test_concave_curves_leave_no_budget_unused():
    # on the convex hulls there is only all or nothing
    names = [name for name in make_analysis(**DEIT_S).widths if name.endswith(INNER)]
    widths = make_analysis(**DEIT_S).widths
    concave = {name: 1 - np.linspace(0, 1, widths[name] + 1) ** 4 for name in names}
    recipe = Recipe(budget={"keep_macs": 0.77}, axes=(*INNER, "block"))
    planned = plan(make_analysis(**DEIT_S, curves=concave), recipe)
    assert planned.achieved >= 0.99 * planned.requested
