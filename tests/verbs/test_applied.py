"""The numbers of an application."""

import json


def test_summary_has_source_and_achieved_of_each(applied):
    done, folder = applied
    numbers = json.loads((folder / "result.json").read_text())
    assert numbers == done.summary()
    assert numbers["requested"] == {"macs": 16_691_008}
    for key in ("params", "macs", "top1", "bytes"):
        assert set(numbers[key]) == {"source", "achieved"}
    assert numbers["macs"]["achieved"] == done.cost.macs
