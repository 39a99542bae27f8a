"""Times of widths: a law is found again, whatever is measured of it; the file; what does not fit."""

import dataclasses
import json

import numpy as np
import pytest
from support.analyses import TINY, make_analysis
from support.latency import LAW, MADE_UP, drawn, make_table, time_by_law
from support.toy_analysis import WIDTHS

from prune_realloc.core.errors import InputError
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.prices import Price, total


def test_a_price_by_hand():
    one = Price(sites=("embed", "blocks.0.ffn"), each=3)
    assert one.at(WIDTHS) == 3 * 4 * 4
    assert one.at({"embed": 2, "blocks.0.ffn": np.array([1, 4])}).tolist() == [6, 24]
    unlike = Price(sites=("blocks.0.heads",), each=7, unlike=("blocks.0.qk", "blocks.0.v"))
    assert unlike.at(WIDTHS) == 0
    assert unlike.at(WIDTHS | {"blocks.0.v": np.array([1, 2, 3])}).tolist() == [14, 0, 14]
    assert total([one, unlike], WIDTHS | {"blocks.0.v": 1}) == 48 + 14
    assert total([one, unlike], WIDTHS | {"blocks.0": 0, "blocks.0.v": 1}) == 0


@pytest.mark.parametrize("unlike", [0.0, 0.05])
def test_a_law_of_time_is_found_again(unlike):
    analysis = make_analysis(**TINY)
    law = LAW | {"unlike": unlike, "macs": 1e-5}
    table, rng = make_table(analysis, **law), np.random.default_rng(1)
    for _ in range(20):
        widths = drawn(analysis.widths, rng)
        assert table.predict(widths) == pytest.approx(time_by_law(analysis.terms, widths, **law), rel=0.01)
    assert max(table.error) < 0.02
    parts = table.components(analysis.widths)
    assert sum(parts.values()) == pytest.approx(table.predict(analysis.widths))
    alike, apart = (table.predict({**analysis.widths, "blocks.0.v": v, "blocks.0.qk": 2}) for v in (2, 1))
    assert (apart > alike) == (unlike > 0)  # one unit less takes longer where the kernel is lost


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_times_of_any_size_are_told_apart(scale):
    analysis = make_analysis(**TINY)
    law = {name: value * scale for name, value in (LAW | {"macs": 1e-5}).items()}
    table, rng = make_table(analysis, **law), np.random.default_rng(1)
    for _ in range(5):
        widths = drawn(analysis.widths, rng)
        assert table.predict(widths) == pytest.approx(time_by_law(analysis.terms, widths, **law), rel=0.01)
    assert 1e12 <= total(table.prices, analysis.widths) < 2e13


def test_noise_shows_in_the_error():
    noisy = make_table(make_analysis(**TINY), noise=0.2, macs=1e-5)
    assert noisy.error[1] > noisy.error[0] > 0.05


def test_no_price_is_negative():
    table = make_table(make_analysis(**TINY), noise=0.5)
    assert all(price.each > 0 for price in table.prices)


def test_the_file_gives_the_table_back(tmp_path):
    table = make_table(make_analysis(**TINY))
    table.save(tmp_path / "new" / "table.json")
    assert LatencyTable.load(tmp_path / "new" / "table.json") == table


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: content.pop("terms"), "the latency table is damaged"),
        (lambda content: content.update(format_version=9), "format_version 9, this program reads 2"),
        (
            lambda content: content.update(
                format_version=1, conditions=content["conditions"] | {"runtime": "compiled"}
            ),
            "format_version 1 timed compiled otherwise than now; measure it again",
        ),
        (lambda content: content.update(measured=content["measured"][:3]), r"measured: .* at least 8 items"),
        (lambda content: content["measured"][2].update(ms=-1), r"measured\.2\.ms: .* greater than 0"),
        (lambda content: content["measured"][2]["widths"].pop("embed"), "of other sites than the first"),
        (lambda content: content["measured"][2]["widths"].update(embed="4"), r"measured\.2\.widths\.embed: .* integer"),
        (lambda content: content["terms"][0].update(sites=["nowhere"]), "no width of nowhere"),
        (
            lambda content: content["conditions"].update(threads="many"),
            r"json: .*\(conditions\.threads: .* integer",
        ),
        (lambda content: content["conditions"].update(versions=None), r"conditions\.versions: "),
        (lambda content: content["conditions"].update(batch=0), r"conditions\.batch: .* greater than or equal to 1"),
        (lambda content: content["measured"][2].update(ms=True), r"measured\.2\.ms: .* number"),
        (lambda content: content["measured"][2].update(ms=float("nan")), r"measured\.2\.ms: .* finite"),
        (lambda content: content.update(seconds=float("nan")), r"seconds: .* finite"),
        (lambda content: content["measured"][2]["widths"].update(embed=10**30), r"measured\.2\.widths\.embed: "),
        (lambda content: content["terms"][0].update(macs="12"), r"terms\.0\.macs: .* integer"),
        (lambda content: content.update(notes="abc"), r"notes: "),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, complaint):
    file = tmp_path / "table.json"
    make_table(make_analysis(**TINY)).save(file)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=complaint):
        LatencyTable.load(file)
    file.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        LatencyTable.load(file)
    with pytest.raises(InputError, match="cannot be read"):
        LatencyTable.load(tmp_path / "none.json")


def test_widths_of_another_network_are_refused():
    table = make_table(make_analysis(**TINY))
    with pytest.raises(InputError, match=r"blocks\.0\.qk is missing"):
        table.predict({name: 1 for name in table.measured[0].widths if name != "blocks.0.qk"})
    with pytest.raises(InputError, match=r"blocks\.9 is no site of this network"):
        table.components({**table.measured[0].widths, "blocks.9": 1})
    other = make_analysis(**(TINY | {"F": 6}))
    with pytest.raises(InputError, match="measured of another network"):
        table.require(other.terms, other.widths, "", {})


def test_what_differs_is_named():
    other = dataclasses.replace(MADE_UP, device="another", versions={"torch": "2", "onnxruntime": "1"})
    assert MADE_UP.differences(MADE_UP) == []
    assert MADE_UP.differences(other) == ["device another", "onnxruntime 1", "torch 2"]
    assert other.differences(MADE_UP) == ["device made up", "onnxruntime None", "torch 1"]


@pytest.mark.parametrize(
    ("field", "value", "has"),
    [("device", "cuda", "cpu"), ("runtime", "compiled", "eager"), ("threads", 2, 1), ("batch", 8, 1)],
)
def test_a_table_holds_for_its_conditions_alone(field, value, has):
    analysis = make_analysis(**TINY)
    table = make_table(analysis)
    table.require(analysis.terms, analysis.widths, "", {field: has})
    with pytest.raises(
        InputError, match=rf"budget\.{field}: {value}, the latency table of made up, .* has {has}; give"
    ):
        table.require(analysis.terms, analysis.widths, "", {field: value})
