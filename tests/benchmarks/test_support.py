"""The page on what is supported is what was measured, and what was measured still holds."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"
SMALL = ("deit_tiny_patch16_224", "pit_ti_224", "levit_128s")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("tables", "support", "record"):
        sys.modules.pop(name, None)


def test_the_pages_are_what_was_measured(scripts):
    import tables

    for page in tables.PAGES:
        assert (DOCS / page).read_text() == tables.render(page), page


def test_what_emit_refuses_is_named_by_what_it_lacks(scripts):
    import tables

    axes = {"whole": ["qk", "ffn"], "linear": ["v", "hidden"], "pooling": ["ffn"], "bare": ["qk", "v"]}
    networks = {name: {"sites": {"axes": dict.fromkeys(found, 1)}} for name, found in axes.items()}
    assert tables.unread({"networks": networks}) == (
        "Of the networks above rule `kept` refuses `pooling` (no attention that can be cut); "
        "`bare` (no FFN that can be cut)."
    )


def test_networks_were_tried_in_the_order_of_the_list(scripts):
    import support

    rows = json.loads((DOCS / "support.json").read_text())["networks"]
    assert list(rows) == [name for name in support.listed() if name in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_what_was_measured_holds(scripts, name):
    import support

    row = json.loads((DOCS / "support.json").read_text())["networks"][name]
    now = support.examined(name, row["args"])
    assert now["sites"] == row["sites"]
    assert now["params"] == row["params"]
    for axis, one in row["cut"].items():
        assert {**now["cut"][axis], "difference": 0} == {**one, "difference": 0}
        if axis != "embed" and not one["notes"]:
            assert now["cut"][axis]["difference"] < 1e-5
    for key in ("share", "axes", "refitted", "backward"):
        assert now["half"].get(key) == row["half"].get(key)
    assert now["half"]["loaded"] < 1e-5  # of the outputs; the tensors are compared bit by bit where they are loaded
    assert now["half"]["onnx"] < 1e-4
