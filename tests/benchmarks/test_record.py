"""A record that is gone on with says of each row when, where and with which versions it was measured."""

import json
import sys
from pathlib import Path

import pytest

OLD = {"machine": "x86_64, 1 threads", "versions": {"torch": "2.13.0"}, "date": "2026-11-01"}
NEW = OLD | {"versions": {"torch": "2.14.1"}, "date": "2026-11-30"}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import record

    yield record
    sys.modules.pop("record")


def test_rows_keep_the_origin_that_they_were_measured_under(script, tmp_path):
    out = tmp_path / "record.json"
    first = script.resumed(out, {"rows": []}, OLD)
    assert first == OLD | {"rows": []}
    first["rows"].append({"top1": 1})
    script.put(first, out)
    assert script.resumed(out, {"rows": []}, OLD) == first  # the same day: nothing to say
    second = script.resumed(out, {"rows": []}, NEW)
    second["rows"].append({"top1": 2})
    assert second == NEW | {"rows": [OLD | {"top1": 1}, {"top1": 2}]}
    script.put(second, out)
    third = script.resumed(out, {"rows": []}, NEW | {"date": "2026-12-01"})
    assert third["rows"] == [OLD | {"top1": 1}, NEW | {"top1": 2}]


def test_a_record_that_cannot_be_written_leaves_the_one_that_is_there(script, tmp_path, monkeypatch):
    out = tmp_path / "record.json"
    script.put({"rows": [1]}, out)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("prune_realloc.core.files.put_in_place", killed)
    with pytest.raises(KeyboardInterrupt):
        script.put({"rows": [1, 2]}, out)
    assert json.loads(out.read_text()) == {"rows": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
