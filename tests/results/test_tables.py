import dataclasses

import numpy as np
import pytest
from support.pruned import papers, source
from support.toy_analysis import make_toy_analysis
from support.variants import old_variant

from prune_realloc.core.cost import KINDS, Term
from prune_realloc.planning.plan import planned
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import build_recipe
from prune_realloc.recipe.target import Target
from prune_realloc.results import tables
from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import (
    component_table,
    facts,
    outcome_facts,
    outcome_table,
    plan_facts,
    plan_table,
    site_table,
    variant_facts,
    variant_tables,
)
from prune_realloc.results.variant import Variant
from prune_realloc.results.variant_rows import component_rows, width_rows

UNSAID_PLAN = dict(kind="macs", requested=None, achieved=1, source=2, macs=1, params=1)
ENERGY = dataclasses.replace(KINDS["params"], name="energy", label="mJ", noun="millijoules")


def rows_of(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def headers_of(table):
    return [column.header for column in table.columns]


def test_every_kind_of_cost_has_a_column():
    assert sorted(kind.name for kind in COST_COLUMNS) == sorted(KINDS)


def test_components_by_hand():
    table = component_table(summary(make_toy_analysis()))
    # 87 params and 805 MACs at embed 4, two heads of qk 2 and v 2, ffn 4
    assert headers_of(table) == ["component", "params", "%", "MACs", "%"]
    assert rows_of(table)[0] == ("qk", "32", "36.8", "320", "39.8")
    assert rows_of(table)[-1] == ("total", "87", "100.0", "805", "100.0")


def test_a_further_kind_of_cost_joins_by_its_declaration(monkeypatch):
    monkeypatch.setattr(tables, "COST_COLUMNS", (*COST_COLUMNS, ENERGY))
    numbers = summary(make_toy_analysis())
    numbers["energy"] = 8
    for number, cost in enumerate(numbers["components"].values()):
        cost["energy"] = number
    table = component_table(numbers)
    assert headers_of(table)[-2:] == ["mJ", "%"]
    assert [row[-2:] for row in rows_of(table)][1::3] == [("1", "12.5"), ("8", "100.0")]
    pair = {"source": 8, "achieved": 4}
    outcome = {kind: pair for kind in ("params", "macs", "bytes", "energy")} | {"top1": None, "latency": None}
    assert [row[0] for row in rows_of(outcome_table(outcome))] == ["params", "MACs", "mJ", "bytes"]


def test_before_and_after_by_hand():
    cost = {kind: {"source": 2000, "achieved": 500} for kind in ("params", "macs", "bytes")}
    timings = [
        {"batch_size": size, "model": name, "median_ms": median, "speedup": speedup}
        for size, name, median, speedup in (
            (1, "source", 4.0, 1.0),
            (1, "pruned", 2.0, 2.0),
            (32, "source", 8.0, 1.0),
            (32, "pruned", 6.0, 1.25),
        )
    ]
    numbers = cost | {"top1": {"source": 0.75, "achieved": 0.5}, "latency": timings}
    assert rows_of(outcome_table(numbers)) == [
        ("params", "2,000", "500", "0.250"),
        ("MACs", "2,000", "500", "0.250"),
        ("bytes", "2,000", "500", "0.250"),
        ("top-1", "75.00%", "50.00%", ""),
        ("ms, batch 1", "4.00", "2.00", "0.500"),
        ("ms, batch 32", "8.00", "6.00", "0.800"),  # over rounds, not of the medians
    ]


def test_a_forecast_is_said_to_be_one_until_it_is_measured():
    recipe = planned(make_toy_analysis(), build_recipe({"rules": {"ffn": {"keep": 0.5}}}))
    [line] = [line for line in plan_facts(recipe) if line.startswith("predicted damage: ")]
    assert "not checked" in line
    numbers = {"agreement": 0.9, "samples": 10, "kl": 0.01, "predicted_damage": 0.002, "faster": None}
    assert outcome_facts(numbers) == [
        "10 images: the two agree on 90.00%, KL(source || pruned) 0.01 nats",
        "predicted damage 0.002 nats per image, measured 0.01: 5 times as much",
    ]
    assert len(outcome_facts(numbers | {"predicted_damage": None})) == 1
    assert len(outcome_facts(numbers | {"loss": {"source": 1.0, "achieved": 1.1}})) == 1  # of the caller's own


def test_sites_by_hand():
    # positive parts: qk 15.5, v 12, ffn 12.3 of 39.8 together; heads by themselves
    first, total = rows_of(site_table(summary(make_toy_analysis())))
    assert first == ("0", "100.0", "2", "100.0", "2", "4", "38.9", "2", "4", "30.2", "3", "4", "30.9", "2")
    assert total == ("all", *first[1:])


def test_lines_under_the_tables():
    assert facts(summary(make_toy_analysis())) == [
        "embed: 4 channels, 3 of them carry 90 % of its score",
        "data: 8 images of d, labels given, loss 0.5000 nats, top-1 75.0%",
        "rank correlation between two halves of the images: FFN 0.90",
    ]


def test_an_emitted_network_beside_its_control():
    variant = old_variant(timed=True)
    shares, widths = variant_tables(variant)
    assert headers_of(shares) == [
        "component",
        *("params: control", "realloc", "points"),
        *("MACs: control", "realloc", "points"),
    ]
    assert rows_of(shares) == component_rows(variant)
    assert rows_of(widths) == width_rows(variant)


def test_lines_under_an_emitted_network():
    cost, *verdicts, moved = variant_facts(old_variant(timed=True))
    assert cost == (
        "budget: 4,000,000 macs; reallocated 3,992,872 MACs, 108,823 params; control 3,991,112 MACs, 100,271 params"
    )
    assert [line[:39] for line in verdicts[:2]] == [
        "eager, batch 1: realloc is faster than ",
        "eager, batch 32: realloc is faster than",
    ]
    points = [float(word.split()[-1]) for word in moved.partition("points: ")[2].split(", ")]
    assert points == sorted(points, key=abs, reverse=True)
    assert min(map(abs, points)) >= 0.5


def emitted(macs=5_000_000, **wanted):
    target = Target(macs=macs, img_size=32, num_classes=10, **wanted)
    sites = source(papers)
    recipe = build_recipe({"plan": UNSAID_PLAN | {"sites": sites}, "target": target.model_dump(exclude_unset=True)})
    network = reallocate(sites, recipe.target)
    done = recipe.model_copy(update={"target": recipe.target.model_copy(update={"network": network})})
    return Variant(name="", recipe=done, latency=None)


def test_the_unmeasured_network_has_its_columns_and_its_cost():
    variant = emitted()
    shares, widths = variant_tables(variant)
    assert headers_of(shares)[1:5] == ["params: control", "realloc", "points", "unmeasured"]
    assert headers_of(widths) == ["place", "control", "realloc", "unmeasured", "why"]
    qk = variant.network.widths["stages.0.qk"]
    row = next(row for row in rows_of(widths) if row[0] == "stages.0.qk")
    assert row[1:4] == (str(qk.control), str(qk.width), str(qk.unmeasured))
    sums = [sum(float(row[column].removesuffix(" %")) for row in rows_of(shares)) for column in (1, 2, 4)]
    assert sums == pytest.approx([100, 100, 100], abs=0.5)
    assert f"unmeasured {variant.network.unmeasured_macs:,} MACs, " in variant_facts(variant)[0]


def test_a_network_that_is_larger_than_its_source_says_so():
    said = "it is larger than its source: 2 times its multiply-adds; give --macs for a smaller one"
    variant = emitted()
    for source_macs, shown in ((variant.network.macs / 2, True), (variant.network.macs, False)):
        plan = variant.recipe.plan.model_copy(update={"kind": "macs", "source": source_macs})
        recipe = variant.recipe.model_copy(update={"plan": plan})
        assert (said in variant_facts(dataclasses.replace(variant, recipe=recipe))) == shown


def test_widths_that_bounds_decide_and_those_at_the_least_multiple_are_named():
    plain = variant_facts(emitted())
    assert not [line for line in plain if "bounds of the rules" in line]
    (least,) = [line for line in plain if "least multiple" in line]
    assert least.startswith("6 of 12 widths, of which less was kept, stand at the least multiple: stages.0.qk, ")
    rules = {"qk": {"ceiling": 4}, "v": {"floor": 12}, "ffn": {"round_to": 8}}
    (bounds,) = [line for line in variant_facts(emitted(rules=rules)) if "bounds of the rules" in line]
    assert bounds.startswith("bounds of the rules decide 6 of 12 widths: stages.0.qk (ceiling), stages.0.v (floor), ")


def test_a_measurement_that_changes_nothing_is_said_aloud():
    said = "the measurement changes nothing: realloc and unmeasured are the same network"
    assert said not in variant_facts(emitted())
    fixed = {"embed": {"move": False}, "qk": {"width": 8}, "v": {"width": 8}, "ffn": {"ratio": 2.0}}
    assert said in variant_facts(emitted(macs=20_000_000, rules=fixed))


def test_an_unmeasured_network_that_the_rules_do_not_leave_is_missed_aloud():
    line = "unmeasured: the rules leave no such network of this budget, so there is none"
    assert line in variant_facts(emitted(rules={"embed": {"ceiling": 16}}))


def with_convs():
    """The toy with a second FFN in its block, and a block that has hidden channels only."""
    toy = make_toy_analysis()
    more = {"blocks.0.ffn.1": np.array([1.0, 2.0]), "blocks.1.hidden": np.array([5.0, 0.0, 0.2])}
    return dataclasses.replace(
        toy,
        scores={**toy.scores, **more},
        damage={**toy.damage, **{name: np.linspace(1, 0, len(units) + 1) for name, units in more.items()}},
        widths={**toy.widths, **{name: len(units) for name, units in more.items()}},
        groups={**toy.groups, **dict.fromkeys(more, 1)},
        terms=(*toy.terms, *(Term(component="ffn", sites=("embed", name), params=2, macs=20) for name in more)),
    )


def test_sites_of_one_axis_and_block_are_added_up():
    table = site_table(summary(with_convs()))
    assert headers_of(table)[2::3] == ["heads", "Q/K", "V", "FFN", "hidden"]
    assert "Q/K, V, FFN and hidden add up to 100 %" in table.caption
    first, second, total = rows_of(table)
    # positive parts: 39.8 as before, FFN 3 more, hidden 5.2: 48.0
    assert first[-6:] == ("6", f"{100 * 15.3 / 48:.1f}", "4", "", "", "")
    assert second == ("1", *[""] * 13, "3", f"{100 * 5.2 / 48:.1f}", "1")
    assert total[-6:] == ("6", f"{100 * 15.3 / 48:.1f}", "4", "3", f"{100 * 5.2 / 48:.1f}", "1")


def test_a_network_without_attention_has_columns_for_what_it_has():
    numbers = summary(with_convs())
    numbers["sites"] = {name: numbers["sites"][name] for name in ("embed", "blocks.1.hidden")}
    table = site_table(numbers)
    assert headers_of(table) == ["block", "share", "hidden", "share", "90%"]
    assert table.caption.endswith("90%: units that carry 90 % of it")


def test_a_plan_of_several_sites_by_hand():
    recipe = Recipe(rules={"ffn": {"keep": 0.5, "round_to": 1}})
    table = plan_table(planned(with_convs(), recipe))
    assert headers_of(table) == ["block", "heads", "of", "Q/K", "of", "V", "of", "FFN", "of", "hidden", "of"]
    assert rows_of(table) == [
        ("0", "2", "2", "2", "2", "2", "2", "3", "6", "", ""),
        ("1", *[""] * 8, "3", "3"),
    ]


def test_a_plan_of_a_transformer_has_the_columns_that_it_had():
    table = plan_table(planned(make_toy_analysis(), Recipe(rules={"ffn": {"keep": 0.5, "round_to": 1}})))
    assert headers_of(table) == ["block", "heads", "of", "Q/K", "of", "V", "of", "FFN", "of"]
    assert table.caption == "units of each head for Q/K and V"
