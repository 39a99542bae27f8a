"""Budgets of memory from analysis to network."""

import pytest
import torch
from support.networks import build

from prune_realloc import apply, build_recipe, sweep
from prune_realloc.runtime.memory import peak_memory


@pytest.fixture
def network():
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return build(), [(images, torch.arange(32) % 5)]


def test_a_pruned_network_holds_what_its_plan_says(network):
    net, batches = network
    recipe = build_recipe({"budget": {"keep_peak": 0.6, "batch": 4}})
    done = apply(recipe, model=net, batches=batches, timed=False)
    planned = done.recipe.plan.peak
    assert planned.achieved <= planned.requested == done.summary()["requested"]["peak"]
    assert peak_memory(net.eval(), torch.zeros(4, 3, 32, 32)) == planned.source
    assert peak_memory(done.network, torch.zeros(4, 3, 32, 32)) == planned.achieved


def test_sweep_goes_through_shares_of_memory(network, tmp_path):
    net, batches = network
    recipe = build_recipe({"budget": {"keep_peak": 0.9, "batch": 2}})
    found = sweep(recipe, budgets=(0.8, 0.6), model=net, batches=batches, out=tmp_path)
    assert found.kind == "peak"
    for point in found.points:
        planned = point.recipe.plan.peak
        assert planned.batch == 2
        assert planned.achieved <= point.budget * planned.source
