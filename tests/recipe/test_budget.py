"""The budget of a recipe."""

import pytest
from support.recipes import one_message

from prune_realloc.recipe.reader import build_recipe, parse_recipe
from prune_realloc.recipe.writer import dump_recipe


@pytest.mark.parametrize(
    ("budget", "kind", "limit"),
    [
        ("{keep_macs: 0.5}", "macs", 500),
        ("{keep_macs: 0.29}", "macs", 290),  # 0.29 * 1000 is below 290 in binary
        ("{keep_macs: 0.0015}", "macs", 1),  # never above the budget
        ("{keep_macs: 5e-1}", "macs", 500),
        ("{keep_macs: 1}", "macs", 1000),
        ("{keep_params: 0.25}", "params", 25),
        ("{macs: 600M}", "macs", 600_000_000),
        ("{macs: 1.2G}", "macs", 1_200_000_000),
        ('{macs: "80 m"}', "macs", 80_000_000),
        ("{macs: 1.5e3}", "macs", 1500),
        ("{params: 10M}", "params", 10_000_000),
        ("{params: 7}", "params", 7),
    ],
)
def test_budget_in_numbers(budget, kind, limit):
    parsed = parse_recipe(f"budget: {budget}").budget
    assert (parsed.kind, parsed.limit({"macs": 1000, "params": 100}[parsed.kind])) == (kind, limit)


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        ("{}", "set one of keep_macs, keep_params, macs, params"),
        ("{keep_macs: null}", "set one of"),
        ("{keep_macs: 0.5, macs: 80M}", "excludes keep_macs 0.5"),
        ("{keep_macs: 0}", "must be above 0, got 0"),
        ("{keep_params: 1.5}", "must be at most 1, got 1.5"),
        ("{keep_macs: .nan}", "must be"),
        ("{keep_macs: true}", "must be a number, got true"),
        ("{macs: 80Q}", "such as 80M"),
        ("{macs: 1.0000001M}", "must be a whole number"),
        ("{macs: 0}", "must be at least 1"),
        ("{macs: .inf}", "must be a whole number"),
        ("{macs: true}", "must be a whole number"),
        ("{latency_ms: 1e300}", "must be at most 1e+09"),
        ("{latency_ms: .nan}", "must be"),
        ("{peak_mb: 1e300}", "must be at most 1e+06"),
        ("{peak_mb: .nan}", "must be"),
        ("{peak_mb: 5, keep_peak: 0.5}", "excludes keep_peak 0.5"),
        ("{keep_macs: 0.5, batch: 2}", "neither time nor memory is limited"),
        ("{peak_mb: 5, threads: 2}", "says nothing where no time is limited"),
        ("half", "must be a mapping"),
    ],
)
def test_wrong_budget(budget, complaint):
    assert complaint in one_message(f"budget: {budget}")


def test_a_large_budget_stays_exact():
    recipe = build_recipe({"budget": {"macs": 123_456_789_012_345_678}})
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe
