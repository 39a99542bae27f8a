import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.data import idx_bytes, write_idx

from prune_realloc.core.errors import InputError
from prune_realloc.data.idx import open_idx, read_idx


@given(arrays(np.uint8, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)), st.booleans())
def test_idx_round_trip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.gz", gzip.compress(idx_bytes(np.zeros((2, 3), np.uint8)), mtime=0)[:-9], "not a whole gzip"),
        ("a.gz", b"plain text", "not a whole gzip"),
        ("a", b"plain text", "not an IDX file"),
        ("a", b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        ("a", idx_bytes(np.zeros((2, 3), np.uint8))[:-1], "its header says"),
        ("a", b"", "not an IDX file"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_idx(tmp_path / name)


def test_labels_do_not_tell_how_many_classes_there_are(tmp_path):
    write_idx(tmp_path, "train", [0, 1, 2])
    write_idx(tmp_path, "t10k", [0, 1])
    found = [open_idx(tmp_path, split) for split in ("train", "test")]
    assert [(source.num_classes, source.least_classes) for source in found] == [(None, 3), (None, 2)]


def test_images_without_a_file_of_labels_have_none(tmp_path):
    write_idx(tmp_path, "train", [0, 1, 2])
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    source = open_idx(tmp_path, "train")
    assert (source.num_classes, source.least_classes, source.load(0)[1]) == (0, 0, -1)
