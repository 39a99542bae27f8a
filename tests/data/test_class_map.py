import json

import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.data.class_map import read_class_map

SAME = {"golden retriever": 0, "cat": 2, "bee": 1}


@pytest.mark.parametrize(
    "text",
    [
        "golden retriever\nbee\n\ncat\n",
        "golden retriever 0\nbee 1\ncat 2",
        "cat 2\nbee 1\ngolden retriever 0",
        "golden retriever,0\nbee,1\ncat,2",
        "0: golden retriever\n1: bee\n2: cat",
        "name\tindex\ngolden retriever\t0\nbee\t1\ncat\t2",
        json.dumps(["golden retriever", "bee", "cat"]),
        json.dumps(SAME),
        json.dumps({"0": "golden retriever", "1": "bee", "2": "cat"}),
        json.dumps({"0": ["golden retriever", "dog"], "1": ["bee", "insect"], "2": ["cat", "pet"]}),
        json.dumps({"model_type": "vit", "id2label": {"0": "golden retriever", "1": "bee", "2": "cat"}}),
        json.dumps({"pretrained_cfg": {"label_names": ["golden retriever", "bee", "cat"]}}),
        "\ufeffgolden retriever\r\nbee\r\ncat\r\n",
    ],
)
def test_every_way_to_write_it(tmp_path, text):
    (tmp_path / "map").write_text(text)
    assert read_class_map(str(tmp_path / "map")) == SAME


def test_names_that_are_numbers_and_synsets_with_words(tmp_path):
    (tmp_path / "numbers").write_text("1\n10\n2\n")
    assert read_class_map(str(tmp_path / "numbers")) == {"1": 0, "10": 1, "2": 2}
    (tmp_path / "synsets").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert read_class_map(str(tmp_path / "synsets")) == {"n01440764": 0, "n01443537": 1}
    (tmp_path / "numbered").write_text("n01440764 3\nn01443537 7\n")
    assert read_class_map(str(tmp_path / "numbered")) == {"n01440764": 3, "n01443537": 7}


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (["Boeing 737", "Boeing 747", "Airbus 320"], [0, 1, 2]),
        (["grade 0", "grade 1"], [0, 1]),
        (["healthy", "grade 1", "grade 2"], [0, 1, 2]),
        (["cat", "Boeing 737", "Airbus 320"], [0, 1, 2]),
        (["737 Boeing", "320 Airbus", "cat"], [0, 1, 2]),
    ],
)
def test_numbers_in_names_are_no_labels(tmp_path, lines, labels):
    (tmp_path / "map").write_text("\n".join(lines))
    assert read_class_map(str(tmp_path / "map")) == dict(zip(lines, labels, strict=True))


def test_some_labels_need_a_separator(tmp_path):
    for between in (",", "; ", ": ", "\t"):
        (tmp_path / "map").write_text(f"cat{between}3\ndog{between}7")
        assert read_class_map(str(tmp_path / "map")) == {"cat": 3, "dog": 7}


@pytest.mark.parametrize(
    "text",
    [
        "background\ncat 0\ndog 1",
        "background\ncat,0\ndog,1",
        "Boeing 737\nAirbus 320",
        "737 Boeing\n320 Airbus",
        "cat 3\ndog 7",
    ],
)
def test_whether_numbers_are_labels_must_be_clear(tmp_path, text):
    (tmp_path / "map").write_text(text)
    with pytest.raises(
        InputError, match=f"such as that of '{text.splitlines()[-1]}' are labels or .* unclear"
    ) as error:
        read_class_map(str(tmp_path / "map"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        (b"\x80\x04\x95", "cannot be read as text"),
        (b"", "names no classes"),
        (b"cat\ncat", "has the class 'cat' twice"),
        (b'{"cat": 0, "dog": 0}', "has the label 0 twice"),
        (b"cat,0\ndog,0", "has the label 0 twice"),
        (b'{"cat": -1}', "below 0"),
        (b'{"cat": {}}', "of another kind"),
        (b"[1, 2]", "of another kind"),
        (b'{"cat"', "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_none(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "map").write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        read_class_map(str(tmp_path / "map"))
    assert "\n" not in str(error.value)
