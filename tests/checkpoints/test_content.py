"""What is let in beside tensors, and that it is inert."""

import collections
import datetime
import pathlib
from argparse import Namespace

import numpy as np
import pytest
import torch

from prune_realloc.checkpoints.content import file_content
from prune_realloc.core.errors import InputError

BESIDE = {
    "best": np.float64(81.3),
    "epoch": np.int64(3),
    "curve": np.arange(3.0),
    "names": np.array(["ant", "bee"]),
    "args": Namespace(output_dir=pathlib.Path("runs/one")),
    "counts": collections.defaultdict(list, {"a": [1]}),
    "when": datetime.datetime(2026, 1, 2, 3),
    "done": np.bool_(True),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_paths_and_dates_beside_the_weights_are_values(tmp_path, zipped):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, **BESIDE}, path, _use_new_zipfile_serialization=zipped)
    found = file_content(path)
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))
    assert (found["best"], found["epoch"], found["done"], found["when"]) == (81.3, 3, True, BESIDE["when"])
    assert found["curve"].tolist() == [0.0, 1.0, 2.0]
    assert found["names"].tolist() == ["ant", "bee"]
    assert found["args"].output_dir == "runs/one"  # a text, nothing that opens files
    assert found["counts"] == {"a": [1]}


def test_numpy_values_that_hold_objects_are_refused(tmp_path):
    torch.save({"a": torch.ones(1), "x": np.array([pathlib.Path, len], dtype=object)}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth.* is refused: reading it would execute a pickle that calls"):
        file_content(tmp_path / "net.pth")
