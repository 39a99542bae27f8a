"""What is said of a forecast."""

import json
import statistics
from pathlib import Path

import pytest

from prune_realloc.planning.forecast import SEEN, compared, missed, outside, unchecked
from prune_realloc.recipe.plan import PlannedLatency
from prune_realloc.recipe.reader import build_recipe

ROWS = json.loads((Path(__file__).parents[2] / "docs" / "forecast.json").read_text())["rows"]
HALF = {"budget": {"keep_macs": 0.5}}
OWN = build_recipe(HALF)
WITHOUT = build_recipe(HALF | {"compensate": {"rotate": False, "refit": False, "mean_shift": False}})
ELSEWISE = ({"scorer": "taylor"}, {"scorer": "loss"}, {"compensate": {"tune": 10}})


@pytest.mark.parametrize(("how", "refit"), [("default", True), ("none", False)])
def test_the_stated_range_is_that_of_the_measurements(how, refit):
    times = [row["test"] / row["predicted"] for row in ROWS if row["how"] == how]
    assert len({row["network"] for row in ROWS}) == 5
    least, median, most = SEEN[refit]
    assert median == pytest.approx(statistics.median(times), rel=0.05)
    assert least <= min(times) <= 1.5 * least
    assert most / 1.5 <= max(times) <= most


def test_a_time_that_is_missed_is_noted():
    how = {"batch": 1, "runtime": "eager", "threads": 1, "device": "Abacus", "error": 0.01}
    planned = PlannedLatency(requested_ms=4.0, achieved_ms=3.9, source_ms=8.0, **how)
    assert not missed(planned, 4.3)
    (note,) = missed(planned, 6.85)
    assert "4 ms asked for, 3.9 foretold, 6.85 measured (eager, batch 1, 1 thread)" in note


def test_only_what_was_seen_nowhere_is_noted():
    least, _, most = SEEN[True]
    for times in (least, 1, most):
        assert outside(1e-3, times * 1e-3, OWN) == []
    for times in (least / 2, most * 2):
        [note] = outside(1e-3, times * 1e-3, OWN)
        assert note.startswith("the forecast does not hold for this cut: predicted damage 0.001 nats per image")
    assert outside(1e-3, 2 * most * 1e-3, WITHOUT) == []
    assert outside(0.0, 0.1, OWN) == outside(None, 0.1, WITHOUT) == outside(0.1, None, WITHOUT) == []


def test_what_is_said_by_hand():
    assert compared(0.002, 0.01) == "predicted damage 0.002 nats per image, measured 0.01: 5 times as much"
    assert unchecked(OWN).startswith(f"not checked: on five networks {SEEN[True][1]:g} times as much")
    assert "without refit" in unchecked(WITHOUT)


@pytest.mark.parametrize("fields", ELSEWISE)
def test_of_other_damage_and_of_tuned_networks_nothing_was_seen(fields):
    recipe = build_recipe(HALF | fields)
    assert unchecked(recipe) == "not checked; apply measures it on a classifier"
    assert outside(1e-3, 1.0, recipe) == []
