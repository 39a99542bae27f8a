"""Plans by hand-made curves; what they cost and lose is counted here by closed formulas of the test's own."""

import dataclasses
import itertools
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.planning import choices, knapsack
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe

# B blocks, D embed, H heads, K q/k and value width per head, F ffn width, N tokens
TINY = dict(B=2, D=16, H=2, K=4, F=8, N=5)  # multiples: embed 4, heads 1, qk and v 1, ffn 2
DEIT_S = dict(B=12, D=384, H=6, K=64, F=1536, N=197)
VIT_L = dict(B=24, D=1024, H=16, K=64, F=4096, N=197)
INNER = ("qk", "v", "ffn")
PATCH, CLASSES = 768, 1000


def block_terms(block, N):
    whole = f"blocks.{block}"
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    return [
        Term(component="qk", sites=("embed", heads, qk), params=2, macs=2 * N),
        Term(component="qk", sites=(heads, qk), params=2, macs=N * N),
        Term(component="v", sites=("embed", heads, v), params=1, macs=N),
        Term(component="v", sites=(heads, v), params=1, macs=N * N),
        Term(component="proj", sites=("embed", heads, v), params=1, macs=N),
        Term(component="proj", sites=("embed", whole), params=1),
        Term(component="ffn", sites=("embed", ffn), params=2, macs=2 * N),
        Term(component="ffn", sites=(ffn,), params=1),
        Term(component="ffn", sites=("embed", whole), params=1),
        Term(component="norm", sites=("embed", whole), params=4),
    ]


def macs_of(widths, N):
    """The same cost as one formula."""
    D, total = widths["embed"], (PATCH * (N - 1) + CLASSES) * widths["embed"]
    for i in range(sum(re.fullmatch(r"blocks\.\d+", name) is not None for name in widths)):
        H, K, V, F = (widths[f"blocks.{i}.{axis}"] for axis in ("heads", "qk", "v", "ffn"))
        total += (2 * N * D + N * N) * H * (K + V) + 2 * N * D * F
    return total


def random_curve(rng, width, convex=True):
    each = rng.exponential(size=width) ** 2
    if convex:
        each = np.sort(each)[::-1]  # the first unit matters most
    each *= rng.uniform(0.1, 1) / each.sum()
    return np.append(each[::-1].cumsum()[::-1], 0.0)


def make_analysis(*, B, D, H, K, F, N, seed=0, convex=True, curves=None, **changes):
    """A transformer as `families/vit.py` declares it, with random curves, or those of `curves`."""
    rng = np.random.default_rng(seed)
    terms = [Term(component="stem", sites=("embed",), params=PATCH + 2 + N, macs=PATCH * (N - 1))]
    widths = {"embed": D}
    for i in range(B):
        here = f"blocks.{i}"
        widths |= {here: 1, f"{here}.heads": H, f"{here}.qk": K, f"{here}.v": K, f"{here}.ffn": F}
        terms += block_terms(i, N)
    terms += [
        Term(component="norm", sites=("embed",), params=2),
        Term(component="head", sites=("embed",), params=CLASSES, macs=CLASSES),
        Term(component="head", params=CLASSES),
    ]
    damage = {name: random_curve(rng, width, convex) for name, width in widths.items()} | (curves or {})
    values = dict(
        scores={name: np.ones(width) for name, width in widths.items()},
        damage=damage,
        widths=widths,
        groups={name: H if name.endswith((".qk", ".v")) else 1 for name in widths},
        terms=tuple(terms),
        scorer="fisher",
        unit="nats",
        samples=8,
        seed=0,
        model={"architecture": "toy"},
        data=None,
        stability={},
    )
    return Analysis(**(values | changes))


@pytest.fixture(scope="module")
def deit_s():
    return make_analysis(**DEIT_S)


def widths_of(planned):
    return {name: site.width for name, site in planned.sites.items()}


def of_axis(planned, axis):
    return [site.width for name, site in planned.sites.items() if name.split(".")[-1] == axis]


def damage_of(analysis, widths):
    """By the definition: every site's curve, but of a block that is gone only its own."""
    total = analysis.damage["embed"][widths["embed"]]
    for i in range(sum(name.endswith(".ffn") for name in widths)):
        inside = [f"blocks.{i}.{axis}" for axis in ("heads", "qk", "v", "ffn")]
        lost = analysis.damage[f"blocks.{i}"][0] if not widths[f"blocks.{i}"] else 0
        total += lost or sum(analysis.damage[name][widths[name]] for name in inside)
    return total


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


def any_spending():
    """Tiny networks are too coarse for a hundredth of the budget."""
    return mock.patch.object(choices, "TOLERANCE", 1.0)


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


def test_a_frozen_block_stays():
    cheap = {f"blocks.{i}": np.array([1e-6, 0.0]) for i in range(12)}
    analysis = make_analysis(**DEIT_S, curves=cheap)
    axes, rules = (*INNER, "block"), {"block": {"blocks": 5, "freeze": True}}
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.3}, axes=axes, rules=rules))
    assert planned.sites["blocks.5"].width == 1
    assert planned.sites["blocks.5.ffn"].width >= 8
    assert planned.sites["blocks.5"].reason == "frozen"


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


@pytest.mark.parametrize("share", [0.35, 0.5, 0.66, 0.9])
@pytest.mark.parametrize("axes", [INNER, (*INNER, "heads", "embed")], ids="+".join)
def test_uniform_widths_differ_by_one_multiple(deit_s, axes, share):
    planned = plan(deit_s, Recipe(budget={"keep_macs": share}, allocation="uniform", axes=axes))
    multiples = {"qk": 8 / 64, "v": 8 / 64, "ffn": 8 / 1536, "heads": 1 / 6, "embed": 8 / 384}
    whole = {"qk": 64, "v": 64, "ffn": 1536, "heads": 6, "embed": 384}
    kept = {axis: np.array(of_axis(planned, axis)) / whole[axis] for axis in axes}
    for axis in INNER:
        assert np.ptp(kept[axis]) <= multiples[axis] + 1e-9
    # and axes differ by no more than the coarser one's multiple, where what hurts is not asked for
    for a, b in itertools.combinations(axes, 2):
        apart = abs(kept[a].mean() - kept[b].mean())
        assert apart <= max(multiples[a], multiples[b]) + multiples["embed"], (a, b)
    hurts = {name: curve[::-1].max() - curve[::-1] for name, curve in deit_s.damage.items()}
    other = plan(
        dataclasses.replace(deit_s, damage=hurts), Recipe(budget={"keep_macs": share}, allocation="uniform", axes=axes)
    )
    assert widths_of(other) == widths_of(planned)


def given_up(planned, analysis, axis):
    """Share of what the axis costs in the source; in these networks a unit costs the same in every block."""
    return 1 - sum(of_axis(planned, axis)) / sum(w for name, w in analysis.widths.items() if name.endswith(axis))


@pytest.mark.parametrize(
    "rules", [{}, {"ffn": {"blocks": "0-5", "freeze": True}}, {"qk": {"floor": 32}}], ids=["free", "half", "floor"]
)
@pytest.mark.parametrize("share", [0.7, 0.8])
def test_per_axis_takes_the_same_share_of_each(deit_s, share, rules):
    planned = plan(deit_s, Recipe(budget={"keep_macs": share}, allocation="per-axis", rules=rules))
    shares = [given_up(planned, deit_s, axis) for axis in INNER]
    assert min(shares) > 0.1
    assert max(shares) - min(shares) <= 1.5 * 8 / (64 * 12)  # steps of qk and v


def test_per_axis_counts_what_a_cliff_takes(deit_s):
    # on either side of half the width, a first unit less hurts most: values go by halves
    half = np.linspace(0, 1, 33) ** 4
    cliff = np.append(4 - 3 * half[:-1], 1 - half)
    analysis = make_analysis(**DEIT_S, curves={f"blocks.{i}.v": (1 + i / 12) * cliff for i in range(12)})
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.75}, allocation="per-axis"))
    assert set(of_axis(planned, "v")) == {32, 64}
    assert of_axis(planned, "v") == sorted(of_axis(planned, "v"))
    shares = [given_up(planned, analysis, axis) for axis in INNER]
    assert max(shares) - min(shares) <= 1.5 * 32 / (64 * 12)


def test_per_axis_compares_inside_an_axis_only():
    # in block 1 everything matters a thousand times more, and values a million times more than the rest
    curves = {}
    for i, axis in itertools.product(range(2), INNER):
        width = 512 if axis == "ffn" else 64
        size = 1000.0**i * (1e6 if axis == "v" else 1)
        curves[f"blocks.{i}.{axis}"] = size * np.linspace(1, 0, width + 1) ** 2
    analysis = make_analysis(B=2, D=128, H=2, K=64, F=512, N=50, curves=curves)
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.75}, allocation="per-axis"))
    for axis in INNER:
        first, second = of_axis(planned, axis)
        assert first < second
    assert given_up(planned, analysis, "v") == pytest.approx(given_up(planned, analysis, "qk"), abs=8 / 128)


def test_per_axis_takes_what_is_free_first():
    curve = np.maximum(np.linspace(1, -1, 1537), 0)  # the upper half costs nothing
    analysis = make_analysis(**DEIT_S, curves={"blocks.4.ffn": curve})
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.98}, allocation="per-axis", axes=("ffn",)))
    assert planned.damage == 0
    assert [i for i, width in enumerate(of_axis(planned, "ffn")) if width < 1536] == [4]


def test_every_site_says_why():
    curves = {
        "blocks.0": np.array([0.0125, 0.0]),
        "blocks.1.ffn": 1e-9 * np.linspace(1, 0, 1537),
        "blocks.2.ffn": 1e6 * np.linspace(1, 0, 1537),
    }
    analysis = make_analysis(**DEIT_S, curves=curves)
    rules = {
        "ffn": [{"blocks": 1, "floor": 256, "round_to": 64}, {"blocks": 3, "keep": 0.5}, {"blocks": 4, "width": 100}],
        "v": [{"blocks": 5, "freeze": True}, {"blocks": "6-8", "ceiling": 40}],
        "qk": {"round_to": 4},
        "block": [{"blocks": "1-11", "freeze": True}],
    }
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.6}, rules=rules, axes=(*INNER, "block")))
    reasons = {name: site.reason for name, site in planned.sites.items()}
    # what a block saves is all of it: 2 * 64 * 6 * (2 * 197 * 384 + 197^2) + 2 * 197 * 384 * 1536 = 378,391,296
    assert reasons["blocks.0"] == "gives up 0.013 nats, saves 378M macs"
    assert reasons["blocks.0.ffn"] == reasons["blocks.0.heads"] == "its block goes"
    assert reasons["blocks.1"] == reasons["blocks.5.v"] == "frozen"
    # 1280 units at 2 * 197 * 384
    assert reasons["blocks.1.ffn"] == "gives up 8.3e-10 nats, saves 194M macs; at its floor 256"
    assert re.fullmatch(r"kept; 1528 would give up 5\.2e\+03 nats for 1\.21M", reasons["blocks.2.ffn"])
    assert reasons["blocks.3.ffn"] == "rule: keep 0.5"
    assert reasons["blocks.4.ffn"] == "rule: width 100"
    assert reasons["embed"] == "no rule asks for a cut"
    for name, site in planned.sites.items():
        if name.endswith(".qk") and name != "blocks.0.qk" and 4 < site.width < 64:
            assert site.reason.endswith("multiple of 4")
    for i in (6, 7, 8):
        ceiling = reasons[f"blocks.{i}.v"].endswith("at its ceiling 40")
        assert ceiling == (planned.sites[f"blocks.{i}.v"].width == 40)


def test_a_block_that_stays_says_what_it_would_give():
    losses = {f"blocks.{i}": np.array([1e3, 0.0]) for i in range(12)}
    planned = plan(make_analysis(**DEIT_S, curves=losses), Recipe(budget={"keep_macs": 0.8}, axes=("ffn", "block")))
    left = 768 * (2 * 197 * 384 + 197 * 197) + 2 * 197 * 384 * planned.sites["blocks.0.ffn"].width
    assert planned.sites["blocks.0"].reason == f"kept; 0 would give up 1e+03 nats for {left / 1e6:.3g}M"


def test_reasons_of_rules_alone(deit_s):
    planned = plan(deit_s, Recipe(rules={"v": {"ceiling": 40}, "qk": {"width": 16}}))
    assert planned.sites["blocks.0.v"].reason == "rule: ceiling 40"
    assert planned.sites["blocks.0.ffn"].reason == "no rule asks for a cut"


def test_reasons_name_the_scorer_where_it_has_a_unit_of_its_own(deit_s):
    analysis = dataclasses.replace(deit_s, unit="magnitude", scorer="magnitude-l1")
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.5}, allocation="uniform"))
    assert planned.damage is planned.bound is None
    assert " magnitude-l1, saves " in planned.sites["blocks.0.ffn"].reason


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (dict(budget={"keep_macs": 0.02}), r"2\.0% of the source\) is below the least .*; embed, heads may not"),
        (dict(budget={"keep_macs": 0.4}, rules={"ffn": {"floor": 1200}}), r"below the least .*\d%\).*lower floors"),
        (dict(budget={"keep_macs": 1.0}), r"macs: a budget of [\d,]+ leaves .* nothing would be removed"),
        (dict(budget={"params": "1G"}), r"params: a budget of 1,000,000,000 leaves .* nothing would be removed"),
        (dict(rules={"qk": {"keep": 1.0}}), "the plan removes nothing"),
        (
            dict(budget={"keep_macs": 0.9}, rules={a: {"freeze": True} for a in INNER}),
            "embed, heads, qk, v, ffn may not change",
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
    with pytest.raises(InputError, match="axes: this model has no qk; it has block, ffn"):
        plan(alone, Recipe(budget=budget))
    with pytest.raises(InputError, match="rules: this model has no embed; it has block, ffn"):
        plan(alone, Recipe(budget=budget, axes=("ffn",), rules={"embed": {"keep": 0.5}}))
    assert plan(alone, Recipe(budget=budget, axes=("ffn",))).sites["blocks.0.ffn"].width == 200
    with pytest.raises(InputError, match=r"below the least that the rules allow, 1,200 .*; ffn may not change;"):
        plan(alone, Recipe(budget=budget, axes=("ffn",), rules={"ffn": {"freeze": True}}))
