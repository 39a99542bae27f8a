"""A latency table measured with a made-up clock, kept, and measured anew."""

import dataclasses
import tempfile
from itertools import islice
from unittest import mock

import pytest
from support.latency import LAW, time_by_law
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.core.latency import LEAST_MEASURED, LatencyTable
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.budget import Budget
from prune_realloc.results import latency, latency_tables
from prune_realloc.results.latency import measure_latency
from prune_realloc.results.latency_draws import drawn_widths, like_blocks
from prune_realloc.results.latency_tables import Shapes, Tables
from prune_realloc.runtime.networks import module_kinds


class Milliseconds(float):
    """What a network takes; nothing is run."""

    def __call__(self, images):
        return None


@pytest.fixture
def made_up(monkeypatch):
    """Networks take what a law says of their widths, and nothing is run.

    The size and the seed of each round of a group that was timed, and up to which of them times are noisy.
    """
    groups, noisy = [], [0]

    def timed(calls, *, rounds, seed, **_):
        groups.append((len(calls), seed))
        wide = 1.0 if len(groups) <= noisy[0] else 0.0
        each = {name: call.func for name, call in calls.items()}  # the networks, which are numbers here
        return {
            name: [1e-3 * ms * (1 + wide * (turn % 2) * (name != "source")) for turn in range(rounds)]
            for name, ms in each.items()
        }

    monkeypatch.setattr(latency, "interleave", timed)
    monkeypatch.setattr(latency, "_MOST", 8)
    monkeypatch.setattr(latency._Setting, "run", lambda self, net: Milliseconds(time_of(net)))
    return groups, noisy


def time_of(net):
    return time_by_law(family_of(net).describe(net).terms, widths(find_sites(net)), **LAW)


def shapes(net):
    return Shapes(
        terms=family_of(net).describe(net).terms,
        widths=widths(find_sites(net)),
        input_shape=(3, 32, 32),
        modules=module_kinds(net),
    )


def test_times_of_drawn_networks_make_a_table(tiny_vit, made_up):
    groups, _ = made_up
    table = measure_latency(tiny_vit, batch=2, threads=1)
    assert len(table.measured) == 1 + latency._MOST
    assert [count for count, _ in groups] == [8, 2]
    whole = widths(find_sites(tiny_vit))
    assert table.measured[0].widths == whole
    assert table.predict(whole) == pytest.approx(table.measured[0].ms, rel=0.05)
    assert (table.conditions.batch, table.conditions.threads, table.notes) == (2, 1, ())


def test_noise_is_measured_longer_and_said(tiny_vit, made_up):
    groups, noisy = made_up
    noisy[0] = 3
    measure_latency(tiny_vit)
    assert [seed for _, seed in groups][:5] == [0, 1, 2, 3, 0]  # the first group three times more
    noisy[0] = 100
    assert "times of one network spread by" in measure_latency(tiny_vit).notes[0]


def test_a_bound_that_is_too_short(tiny_vit, made_up):
    with pytest.raises(InputError, match=rf"only 2 networks were measured, a latency table takes {LEAST_MEASURED}"):
        measure_latency(tiny_vit, seconds=0)


def test_a_network_of_which_no_draw_can_be_cut(tiny_vit, made_up, monkeypatch):
    tried = []

    def refused(net, widths):
        tried.append(widths)
        assert len(tried) <= 100
        raise InputError("blocks.0 stays")

    monkeypatch.setattr(latency, "cut_to_widths", refused)
    with pytest.raises(InputError, match=r"none of 20 drawn networks can be cut, the last one because blocks\.0 stays"):
        measure_latency(tiny_vit)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"runtime": "tensorrt"}, "runtime 'tensorrt' is unknown"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seconds": float("nan")}, "seconds must be at least 0, got nan"),
    ],
)
def test_wrong_options(tiny_vit, options, complaint):
    with pytest.raises(InputError, match=complaint):
        measure_latency(tiny_vit, **options)


def test_draws_are_networks_that_can_be_cut_and_differ_as_plans_do(tiny_vit):
    sites, terms = find_sites(tiny_vit), family_of(tiny_vit).describe(tiny_vit).terms
    drawn = list(islice(drawn_widths(sites, terms), 12))
    assert drawn == list(islice(drawn_widths(sites, terms), 12))
    assert drawn != list(islice(drawn_widths(sites, terms, seed=1), 12))
    for found in drawn[:4]:
        cut_to_widths(tiny_vit, found)
    assert any(found["blocks.1"] == 0 for found in drawn)
    assert any(found["blocks.0.qk"] == found["blocks.0.v"] < 16 for found in drawn)
    assert any(found["blocks.0.qk"] != found["blocks.0.v"] for found in drawn)
    assert any(found["embed"] < 48 for found in drawn)
    assert like_blocks(sites, terms) == [[0, 1]]


@pytest.fixture
def cached(tmp_path, monkeypatch, made_up):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return made_up[0]


def test_a_table_is_measured_once(tiny_vit, cached):
    budget = Budget(latency_ms=1.0, batch=4, threads=1)
    first = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    assert len(cached) == 2
    again = Tables(measure=False).of(budget, shapes(tiny_vit), lambda: pytest.fail("the network is not needed"))
    assert again == first
    Tables().of(Budget(latency_ms=1.0, batch=8, threads=1), shapes(tiny_vit), lambda: tiny_vit)
    assert len(cached) == 4


def test_another_processor_is_measured_anew_or_refused(tiny_vit, cached, monkeypatch):
    budget = Budget(latency_ms=1.0, threads=1)
    Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    monkeypatch.setattr(latency_tables, "device_name", lambda device: "another processor")
    with pytest.raises(InputError, match=r"another processor, eager, .* needed, the one at hand is of"):
        Tables(measure=False).of(budget, shapes(tiny_vit), lambda: tiny_vit)
    monkeypatch.setattr(latency, "device_name", lambda device: "another processor")
    table = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    assert (table.conditions.device, len(cached)) == ("another processor", 4)


def test_another_version_of_a_package_is_measured_anew_or_refused(tiny_vit, cached, monkeypatch):
    budget, now = Budget(latency_ms=1.0, threads=1), latency_tables.package_versions()
    Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    for module in (latency, latency_tables):
        monkeypatch.setattr(module, "package_versions", lambda *extra: now | {"torch": "99.0"})
    with pytest.raises(InputError, match=r"the one at hand is of torch [^9].*; leave --no-measure out"):
        Tables(measure=False).of(budget, shapes(tiny_vit), lambda: tiny_vit)
    table = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    assert (table.conditions.versions["torch"], len(cached)) == ("99.0", 4)


def test_networks_of_one_shape_with_other_modules_have_tables_of_their_own(tiny_vit, cached):
    budget, other = Budget(latency_ms=1.0, threads=1), build(act_layer="relu")
    first = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    with pytest.raises(InputError, match="there is none"):
        Tables(measure=False).of(budget, shapes(other), lambda: other)
    with pytest.raises(InputError, match="measured of another network"):
        first.require(first.terms, first.measured[0].widths, module_kinds(other), {})
    first.require(first.terms, first.measured[0].widths, "", {})  # an older analysis does not tell


def test_a_damaged_table_is_measured_anew_or_refused(tiny_vit, cached):
    budget = Budget(keep_latency=0.5)
    Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    [file] = latency_tables.cache_folder().iterdir()
    file.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Tables(measure=False).of(budget, shapes(tiny_vit), lambda: tiny_vit)
    Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    assert LatencyTable.load(file)


def test_a_table_of_a_machine_that_was_not_quiet_is_not_kept(tiny_vit, made_up, cached):
    _, noisy = made_up
    noisy[0] = 100
    budget = Budget(latency_ms=1.0, threads=1)
    noted = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    assert "is not kept" in noted.notes[-1]
    assert not any(latency_tables.cache_folder().iterdir())
    noisy[0] = 0
    quiet = Tables().of(budget, shapes(tiny_vit), lambda: tiny_vit)
    [file] = latency_tables.cache_folder().iterdir()
    dataclasses.replace(quiet, notes=noted.notes).save(file)  # as an older version kept it
    with pytest.raises(InputError, match="the one at hand is of a machine that was not quiet"):
        Tables(measure=False).of(budget, shapes(tiny_vit), lambda: tiny_vit)


@pytest.mark.parametrize("in_the_way", ["file", "disk"])
def test_a_cache_that_cannot_be_written_is_noticed_before_the_measurement(
    tiny_vit, cached, tmp_path, monkeypatch, in_the_way
):
    if in_the_way == "file":
        (tmp_path / "prune-realloc").write_text("")
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", mock.Mock(side_effect=OSError(30, "Read-only file system")))
    complaint = {"file": "a file is in the way", "disk": "cannot be written: Read-only file system"}[in_the_way]
    with pytest.raises(InputError, match=f"{complaint}.*; .* set XDG_CACHE_HOME to another folder"):
        Tables().of(Budget(latency_ms=1.0), shapes(tiny_vit), lambda: tiny_vit)
    assert not cached


def test_a_table_that_is_named_is_taken_for_its_device(tiny_vit, cached, tmp_path):
    table = measure_latency(tiny_vit, batch=4, threads=1)
    there = dataclasses.replace(table, conditions=dataclasses.replace(table.conditions, device="far away"))
    there.save(tmp_path / "there.json")
    tables = Tables(file=tmp_path / "there.json")
    assert tables.of(Budget(latency_ms=1.0), shapes(tiny_vit), lambda: pytest.fail("not measured")) == there
    with pytest.raises(InputError, match=r"budget\.batch: 1, the latency table .* has 4"):
        tables.of(Budget(latency_ms=1.0, batch=1), shapes(tiny_vit), lambda: tiny_vit)
    with pytest.raises(InputError, match="no budget limits time"):
        tables.of(Budget(keep_macs=0.5), shapes(tiny_vit), lambda: tiny_vit)
    other = build(depth=1)
    with pytest.raises(InputError, match="measured of another network"):
        tables.of(Budget(latency_ms=1.0), shapes(other), lambda: other)


def test_the_network_that_is_measured_is_the_one_that_was_analysed(tiny_vit, cached):
    other = build(depth=1)
    with pytest.raises(InputError, match="the network of the analysis is not at hand"):
        Tables().of(Budget(latency_ms=1.0), shapes(tiny_vit), lambda: other)
