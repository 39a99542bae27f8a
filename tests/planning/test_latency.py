"""Plans by time, and by several budgets at once."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from support.analyses import DEIT_S, INNER, TINY, any_spending, make_analysis, widths_of
from support.latency import make_table

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.plan import plan, planned
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import check_recipe, parse_recipe
from prune_realloc.recipe.writer import dump_recipe

MORE_AND_MORE = ((*INNER, "embed"), (*INNER, "embed", "heads"), (*INNER, "embed", "heads", "block"))
SMALL = dict(B=1, D=8, H=2, K=4, F=8, N=5)


def only_blocks(seed):
    """A network whose stem and head cost nothing."""
    whole = make_analysis(**SMALL, seed=seed)
    return replace(whole, terms=tuple(term for term in whole.terms if any("blocks" in site for site in term.sites)))


def every_network(analysis, recipe, table):
    """Time, multiply-adds and damage of each network that the rules allow."""
    choices = PlanningProblem(analysis, recipe).choices
    grid = np.meshgrid(*choices.values(), indexing="ij")
    every = {name: axis.ravel() for name, axis in zip(choices, grid, strict=True)}
    macs = sum(term.macs * prod((every[s] for s in term.sites), start=np.int64(1)) for term in analysis.terms)
    ms = sum(price.at(every) for price in table.prices) / table.parts
    return ms, macs, sum(analysis.damage[name][every[name]] for name in choices)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [{"keep_latency": 0.7}, {"keep_latency": 0.7, "keep_macs": 0.6}])
@pytest.mark.parametrize("unlike", [0.0, 0.3])
def test_no_network_that_keeps_the_budgets_has_less_damage(seed, budget, unlike):
    analysis = only_blocks(seed)
    table = make_table(analysis, network=0.2, block=0.1, macs=1e-3, params=0.0, unlike=unlike)
    with any_spending():
        found = plan(analysis, Recipe(budget=budget, axes=INNER), table)
    ms, macs, damage = every_network(analysis, Recipe(budget=budget, axes=INNER), table)
    fits = ms <= 0.7 * table.predict(analysis.widths)
    fits &= macs <= (found.requested or macs.max())
    assert (
        found.latency.achieved_ms
        <= found.latency.requested_ms
        == pytest.approx(0.7 * found.latency.source_ms, rel=1e-5)
    )
    assert found.macs <= (found.requested or found.macs)
    assert damage[fits].min() >= found.bound - 1e-3 * found.damage
    slack = 1.0 if len(budget) == 1 else 1.15  # between two budgets a plan may miss the best by a step
    assert found.damage <= slack * damage[fits].min() + 1e-4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.97, 0.95])
def test_what_may_go_besides_never_makes_a_plan_lose_more(seed, share):
    analysis = make_analysis(**DEIT_S, seed=seed)
    slow = make_table(analysis, network=0.2, block=3.0, macs=5e-10, params=0.0)  # widths save 6 %, a block 8 %
    budget = {"keep_latency": share}
    lost = [plan(analysis, Recipe(budget=budget, axes=axes), slow).damage for axes in MORE_AND_MORE]
    assert lost == sorted(lost, reverse=True)


def test_both_budgets_hold_and_one_is_spent():
    analysis = make_analysis(**DEIT_S)
    table = make_table(analysis, macs=1e-8, params=1e-6)
    for budget in ({"keep_latency": 0.5, "keep_macs": 0.55}, {"keep_macs": 0.5, "keep_params": 0.55}):
        for allocation in ("damage", "uniform", "per-axis"):
            recipe = Recipe(budget=budget, allocation=allocation)
            found = plan(analysis, recipe, table if "keep_latency" in budget else None)
            shares = [found.macs / found.requested]
            shares += [found.params / found.also["params"].requested] if found.also else []
            shares += [found.latency.achieved_ms / found.latency.requested_ms] if found.latency else []
            assert len(shares) == 2
            assert max(shares) <= 1
            assert max(shares) >= 0.99


def test_a_budget_that_does_not_bind_changes_nothing():
    analysis = make_analysis(**DEIT_S)
    one = plan(analysis, Recipe(budget={"keep_macs": 0.5}))
    both = plan(analysis, Recipe(budget={"keep_macs": 0.5, "latency_ms": 1e6}), make_table(analysis))
    assert both.sites == one.sites


def test_a_time_that_does_not_bind_excuses_no_cost():
    analysis = make_analysis(**DEIT_S)
    budget = {"keep_macs": 0.55, "latency_ms": 1e6}
    with pytest.raises(InputError, match=r"macs: .* is the nearest below that the multiples allow \(whole blocks\)"):
        plan(analysis, Recipe(budget=budget, axes=("block",)), make_table(analysis))
    close = plan(
        analysis, Recipe(budget={"keep_macs": 0.65, "latency_ms": 14.5}, axes=("block",)), make_table(analysis)
    )
    assert close.latency.achieved_ms <= 14.5  # a block more would take longer


def test_budgets_that_are_too_close_to_the_least_are_named_by_their_own_numbers():
    analysis = make_analysis(**DEIT_S)
    choices = PlanningProblem(analysis, Recipe(budget={"keep_macs": 0.5})).choices
    least = total_cost(analysis.terms, {name: widths[-1] for name, widths in choices.items()})
    budget = {"macs": int(1.5 * least.macs), "params": int(1.5 * least.params)}
    with pytest.raises(InputError, match="macs and params: no plan was found that keeps both budgets"):
        plan(analysis, Recipe(budget=budget))


def test_widths_that_save_no_time_are_kept():
    analysis = make_analysis(**TINY)
    table = make_table(analysis, macs=1e-3)
    free = [price for price in table.prices if any(name.endswith(".ffn") for name in price.sites)]
    vars(table)["prices"] = tuple(price for price in table.prices if price not in free)
    found = plan(analysis, Recipe(budget={"latency_ms": table.predict(analysis.widths) * 0.999}, axes=INNER), table)
    assert all(site.width == site.of for name, site in found.sites.items() if name.endswith(".ffn"))
    assert any(site.width < site.of for site in found.sites.values())


@pytest.mark.parametrize("unlike", [0.0, 1.0])
def test_an_axis_that_saves_no_time_is_kept_where_axes_share(unlike):
    analysis = make_analysis(**TINY)
    table = make_table(analysis, macs=1e-3, unlike=unlike)
    costly = tuple(price for price in table.prices if not any(name.endswith(".ffn") for name in price.sites))
    vars(table)["prices"] = costly
    budget = {"latency_ms": 0.8 * table.predict(analysis.widths)}
    found = plan(analysis, Recipe(budget=budget, axes=INNER, allocation="per-axis"), table)
    assert all(site.width == site.of for name, site in found.sites.items() if name.endswith(".ffn"))
    assert found.latency.achieved_ms <= budget["latency_ms"]


def test_reasons_and_recipes_speak_of_time():
    analysis = make_analysis(**DEIT_S)
    done = planned(analysis, Recipe(budget={"keep_latency": 0.5, "batch": 1}), make_table(analysis, macs=1e-8))
    assert any("saves" in site.reason and "ms" in site.reason for site in done.plan.sites.values())
    text = dump_recipe(done, "x")
    assert parse_recipe(text) == done
    [stale] = check_recipe(text.replace("keep_latency: 0.5", "keep_latency: 0.6"))
    assert stale.field == "plan.latency.requested_ms"
    assert "remove plan, and plan again" in stale.message
    [other] = check_recipe(text.replace("keep_latency: 0.5, batch: 1", "keep_macs: 0.5"))
    assert "keeps budgets of latency, those asked for are of macs" in other.message


def test_a_time_that_no_width_reaches():
    analysis = make_analysis(**TINY)
    with pytest.raises(InputError, match=r"latency: 1 ms .* is below the least that the rules allow.*: rest [\d.]+ ms"):
        plan(analysis, Recipe(budget={"latency_ms": 1.0}), make_table(analysis))


def test_without_a_table_or_with_that_of_another_network():
    analysis, recipe = make_analysis(**TINY), Recipe(budget={"latency_ms": 3.5})
    with pytest.raises(InputError, match="there is no table of times"):
        plan(analysis, recipe)
    with pytest.raises(InputError, match="measured of another network"):
        plan(analysis, recipe, make_table(make_analysis(**DEIT_S)))


def test_a_table_of_other_conditions_than_those_asked_for():
    analysis = make_analysis(**DEIT_S)
    with pytest.raises(InputError, match=r"budget\.batch: 8, the latency table of .* has 1"):
        plan(analysis, Recipe(budget={"keep_latency": 0.5, "batch": 8}), make_table(analysis, macs=1e-8))


def test_several_streams_are_planned_by_time():
    analysis = make_analysis(**DEIT_S)
    table = make_table(analysis, macs=1e-8)
    found = plan(analysis, Recipe(budget={"keep_latency": 0.4}), table)
    assert table.predict(widths_of(found)) == pytest.approx(found.latency.achieved_ms, rel=1e-5)
    assert 0.98 * found.latency.requested_ms <= found.latency.achieved_ms <= found.latency.requested_ms
    assert found.bound <= found.damage


def unlike_costs(analysis):
    """A table where unlike widths of queries and values take longer than all else."""
    return make_table(analysis, network=0.2, block=0.1, macs=1e-8, params=0.0, unlike=1.0)


def test_a_time_that_only_unlike_widths_exceed_holds_too():
    analysis = make_analysis(**DEIT_S)
    table = unlike_costs(analysis)
    budget = {"latency_ms": table.predict(analysis.widths) + 1e-3, "keep_macs": 0.9}
    found = plan(analysis, Recipe(budget=budget, axes=("qk", "ffn")), table)
    assert found.latency.achieved_ms <= budget["latency_ms"]
    assert found.macs <= found.requested
    for allocation in ("uniform", "per-axis"):  # narrower queries are all that they know
        with pytest.raises(InputError, match=f"latency: 46.81 ms asked for, allocation {allocation} comes to 83.48 ms"):
            plan(analysis, Recipe(budget=budget, axes=("qk", "ffn"), allocation=allocation), table)


def test_floors_that_keep_widths_unlike_do_not_hide_what_like_widths_reach():
    analysis = make_analysis(**DEIT_S)
    table, floors = unlike_costs(analysis), {"qk": {"floor": 16}, "v": {"floor": 8}}
    found = plan(analysis, Recipe(budget={"keep_latency": 0.4}, axes=INNER, rules=floors), table)
    assert found.latency.achieved_ms <= 0.4 * found.latency.source_ms + 1e-4
    least = {name: 1 if name.count(".") == 1 else 16 for name in analysis.widths}
    least |= {name: width for name, width in analysis.widths.items() if name.endswith((".heads", "embed"))}
    least |= {name: 8 for name in analysis.widths if name.endswith(".ffn")}
    with pytest.raises(InputError, match=f"the least that the rules allow, {table.predict(least):.4g} ms"):
        plan(analysis, Recipe(budget={"keep_latency": 0.05}, axes=INNER, rules=floors), table)
