"""The networks that `emit` writes belong together."""

import dataclasses

import pytest
from support.interruption import killed_after
from support.networks import build

from prune_realloc.verbs.analyze import analyze
from prune_realloc.verbs.emit import emit

NAMES = ("control", "realloc", "unmeasured")


@pytest.fixture(scope="module")
def analysis():
    # as if scores were comparable, so that damage can allocate
    return dataclasses.replace(analyze(build(depth=4), scorer="magnitude"), unit="nats")


@pytest.mark.parametrize("changes", [0, 1, 9, 13, 17])
def test_a_killed_emission_never_leaves_a_network_with_the_control_of_another(analysis, tmp_path, changes):
    emit(analysis, target={"macs": 8_000_000}, out=tmp_path, timed=False)
    with killed_after(changes):
        emit(analysis, target={"macs": 7_000_000}, out=tmp_path, timed=False)
    recipes = [path.read_bytes() for path in tmp_path.glob("*/recipe.yaml")]
    assert len({*recipes}) == 1
    if all((tmp_path / name / "config.json").exists() for name in NAMES):
        assert changes in (0, 17)  # eight removals and nine renames
        assert (b"7000000" in recipes[0]) == (changes == 17)
