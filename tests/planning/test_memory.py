"""Plans by the memory that inference holds."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from support.analyses import DEIT_S, INNER, any_spending, make_analysis, widths_of
from support.memory import make_memory

from prune_realloc.core.errors import InputError
from prune_realloc.planning.choices import PlanningProblem
from prune_realloc.planning.plan import plan, planned
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import check_recipe, parse_recipe
from prune_realloc.recipe.writer import dump_recipe

SMALL = dict(B=1, D=8, H=2, K=4, F=8, N=5)


def remembered(seed=0, **sizes):
    analysis = make_analysis(**sizes, seed=seed)
    return replace(analysis, memory=make_memory(analysis, sizes["N"]))


def only_blocks(seed):
    """A network whose stem and head cost nothing."""
    whole = remembered(**SMALL, seed=seed)
    return replace(whole, terms=tuple(term for term in whole.terms if any("blocks" in site for site in term.sites)))


def every_network(analysis, recipe, batch):
    """Bytes, multiply-adds and damage of each network that the rules allow."""
    choices = PlanningProblem(analysis, recipe).choices
    grid = np.meshgrid(*choices.values(), indexing="ij")
    every = {name: axis.ravel() for name, axis in zip(choices, grid, strict=True)}
    units = [prod((every[s] for s in term.sites), start=np.int64(1)) for term in analysis.terms]
    macs = sum(term.macs * unit for term, unit in zip(analysis.terms, units, strict=True))
    weights = sum(4 * term.params * unit for term, unit in zip(analysis.terms, units, strict=True))
    moments = [sum(price.at(every) for price in prices) for prices in analysis.memory.activations(batch)]
    damage = sum(analysis.damage[name][every[name]] for name in choices)
    return weights + np.max(moments, axis=0), macs, damage


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("also", [{}, {"keep_macs": 0.8}])
@pytest.mark.parametrize("axes", [INNER, ("embed", *INNER)])
def test_no_network_that_keeps_the_budgets_has_less_damage(seed, batch, also, axes):
    analysis = only_blocks(seed)
    recipe = Recipe(budget={"keep_peak": 0.7, "batch": batch} | also, axes=axes)
    with any_spending():
        found = plan(analysis, recipe)
    peak, macs, damage = every_network(analysis, recipe, batch)
    fits = (peak <= found.peak.requested) & (macs <= (found.requested or macs.max()))
    assert found.peak.achieved <= found.peak.requested == int(0.7 * found.peak.source)
    assert found.peak.achieved == analysis.memory.peak(analysis.terms, widths_of(found), batch)
    assert found.peak.source == analysis.memory.peak(analysis.terms, analysis.widths, batch)
    assert damage[fits].min() >= found.bound - 1e-3 * found.damage
    assert found.damage <= 1.1 * damage[fits].min() + 1e-4  # weights may be bought only up to the next ceiling


def test_both_budgets_hold_and_one_is_spent():
    analysis = remembered(**DEIT_S)
    budget = {"keep_peak": 0.6, "batch": 8, "keep_macs": 0.6}
    for allocation in ("damage", "uniform", "per-axis"):
        found = plan(analysis, Recipe(budget=budget, allocation=allocation, axes=INNER))
        shares = [found.macs / found.requested, found.peak.achieved / found.peak.requested]
        assert 0.98 <= max(shares) <= 1


def test_more_images_cut_what_is_alive_and_fewer_what_is_stored():
    analysis = remembered(**DEIT_S)
    few, many = (plan(analysis, Recipe(budget={"keep_peak": 0.6, "batch": batch}, axes=INNER)) for batch in (1, 1024))
    widest = [max(site.width for name, site in each.sites.items() if name.endswith("ffn")) for each in (few, many)]
    assert widest[1] < widest[0]  # with many images the widest block decides, whichever it is
    assert few.params < many.params


def test_a_budget_that_does_not_bind_changes_nothing():
    analysis = remembered(**DEIT_S)
    one = plan(analysis, Recipe(budget={"keep_macs": 0.5}))
    both = plan(analysis, Recipe(budget={"keep_macs": 0.5, "peak_mb": 1e5}))
    assert both.sites == one.sites


def test_a_peak_that_no_width_reaches_names_the_floor_and_what_holds_it():
    analysis = remembered(**DEIT_S)
    with pytest.raises(
        InputError,
        match=r"peak: 1 MB \(.* of the source\) is below the least .*: weights .* MB, blocks\.\d+\..* MB\).*raise",
    ):
        plan(analysis, Recipe(budget={"peak_mb": 1}, axes=INNER))


def test_an_analysis_without_a_formula_is_refused():
    with pytest.raises(InputError, match=r"the analysis has no formula of it .* run `analyze` again"):
        plan(make_analysis(**DEIT_S), Recipe(budget={"peak_mb": 50}))


def test_reasons_and_recipes_speak_of_memory():
    done = planned(remembered(**DEIT_S), Recipe(budget={"keep_peak": 0.5, "batch": 4}, axes=INNER))
    assert any("saves" in site.reason and "MB" in site.reason for site in done.plan.sites.values())
    text = dump_recipe(done, "x")
    assert parse_recipe(text) == done
    [stale] = check_recipe(text.replace("keep_peak: 0.5", "keep_peak: 0.4"))
    assert stale.field == "plan.peak.requested"
    [other] = check_recipe(text.replace("keep_peak: 0.5, batch: 4", "keep_macs: 0.5"))
    assert "keeps budgets of peak, those asked for are of macs" in other.message
