"""Budgets of time from analysis to network, by a table that is given."""

from types import SimpleNamespace

import pytest
import torch
from support.latency import make_table
from support.networks import build

from prune_realloc import apply, build_recipe, sweep
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.results.latency import measure_latency
from prune_realloc.results.latency_tables import Tables
from prune_realloc.runtime.networks import module_kinds


@pytest.fixture
def network(tmp_path):
    """A network, batches, and its table."""
    net = build()
    terms, own = family_of(net).describe(net).terms, widths(find_sites(net))
    shapes = SimpleNamespace(terms=terms, widths=own, model={"modules": module_kinds(net)})
    table = make_table(shapes, network=0.1, macs=1e-6)
    table.save(tmp_path / "table.json")
    images, labels = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 5
    return net, [(images, labels)], Tables(file=tmp_path / "table.json"), table


def test_apply_keeps_a_budget_of_time_in_all_that_it_compares(network):
    net, batches, tables, table = network
    recipe = build_recipe({"budget": {"latency_ms": 0.7 * table.predict(widths(find_sites(net)))}})
    done = apply(recipe, model=net, batches=batches, tables=tables, timed=False)
    left = {name: site.width for name, site in done.recipe.plan.sites.items()}
    assert table.predict(left) <= done.recipe.budget.latency_ms
    numbers = done.summary()
    assert numbers["requested"] == {"latency": done.recipe.budget.latency_ms}
    assert numbers["predicted_ms"]["achieved"] == pytest.approx(table.predict(left), rel=1e-5)
    assert "with uniform widths" in " ".join(done.notes)


def test_apply_times_what_was_planned_for(network):
    net, batches, tables, table = network
    recipe = build_recipe({"budget": {"latency_ms": 0.7 * table.predict(widths(find_sites(net)))}})
    done = apply(recipe, model=net, batches=batches, tables=tables)
    planned = done.recipe.plan.latency
    places = {(timing.backend, timing.batch_size) for timing in done.timing.timings}
    assert (places, done.timing.threads) == ({("eager", planned.batch)}, planned.threads)
    late = "the time that was asked for is missed" in " ".join(done.notes)
    assert late == (done.timing.timings[-1].median_ms > 1.1 * planned.requested_ms)


def test_a_time_that_cannot_be_measured_here_does_not_undo_the_cut(network, monkeypatch):
    net, batches, tables, table = network

    def fails(*args, **options):
        raise InputError("backend 'onnxruntime' needs onnxruntime")

    monkeypatch.setattr("prune_realloc.verbs.staged.bench", fails)
    recipe = build_recipe({"budget": {"latency_ms": 0.7 * table.predict(widths(find_sites(net)))}})
    done = apply(recipe, model=net, batches=batches, tables=tables)
    assert done.timing is None
    assert "the time that was planned for is not measured: backend 'onnxruntime' needs onnxruntime" in done.notes


def test_sweep_goes_through_shares_of_time(network, tmp_path):
    net, batches, tables, _ = network
    recipe = build_recipe({"budget": {"keep_latency": 0.9, "batch": 1}})
    found = sweep(recipe, budgets=(0.8, 0.6), model=net, batches=batches, tables=tables, out=tmp_path)
    assert found.shown_kind.name == "macs"
    assert (tmp_path / "sweep.png").exists()
    assert found.kind == "latency"
    assert [point.recipe.budget.keep_latency for point in found.points] == [0.8, 0.6]
    assert [point.recipe.budget.batch for point in found.points] == [1, 1]
    for point in found.points:
        planned = point.recipe.plan.latency
        assert planned.achieved_ms <= point.budget * planned.source_ms * (1 + 1e-5)


def test_sweep_refuses_to_drop_a_budget(network):
    net, batches, tables, _ = network
    recipe = build_recipe({"budget": {"keep_latency": 0.9, "keep_macs": 0.9}})
    with pytest.raises(InputError, match="budget: it limits macs and latency, and a sweep varies one"):
        sweep(recipe, budgets=(0.8,), model=net, batches=batches, tables=tables)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_networks_are_really_run(runtime, monkeypatch):
    from prune_realloc.results import latency

    for name, value in {"_MOST": 7, "_ROUNDS": 1, "_SECONDS": 0.0, "_AGAIN": 0}.items():
        monkeypatch.setattr(latency, name, value)
    net = build()
    table = measure_latency(net, runtime=runtime, batch=2, threads=1, seconds=1000)
    assert len(table.measured) == 8
    assert table.predict(widths(find_sites(net))) > 0
    assert ("onnxruntime" in table.conditions.versions) == (runtime == "onnxruntime")


def test_what_is_around_a_network_is_not_timed():
    with pytest.raises(InputError, match="only a network without others around it is timed"):
        measure_latency(torch.nn.Sequential(build(), torch.nn.Identity()))


@pytest.mark.parametrize("axes", [None, ["qk", "v", "ffn", "embed"]])
def test_apply_tries_heads_and_blocks_where_they_promise_more(network, monkeypatch, axes):
    net, batches, tables, table = network
    net.head.weight.data *= 30  # so that damage matters
    monkeypatch.setattr("prune_realloc.planning.all_axes._LESS", 0.9)
    own = widths(find_sites(net))
    shapes = SimpleNamespace(terms=table.terms, widths=own, model={"modules": table.modules})
    slow = make_table(shapes, network=0.1, block=0.3, macs=1e-6)
    slow.save(tables.file)
    named = {} if axes is None else {"axes": axes}
    recipe = build_recipe({"budget": {"latency_ms": 0.5 * slow.predict(own)}} | named)
    done = apply(recipe, model=net, batches=batches, tables=tables, timed=False)
    assert ("with heads and blocks to go too" in " ".join(done.notes)) == (axes is None)
    assert slow.predict({name: site.width for name, site in done.recipe.plan.sites.items()}) <= recipe.budget.latency_ms
