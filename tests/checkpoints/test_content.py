"""What is let in beside tensors, and that it is inert."""

import collections
import datetime
import io
import pathlib
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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
    with pytest.raises(InputError, match=r"net\.pth.* (is refused|cannot be read)"):
        file_content(tmp_path / "net.pth")


def pickled(path, program):
    """A file as `torch.save` writes them, with another pickle in it."""
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, program if name.endswith("data.pkl") else source.read(name))
    return path


def dtype(name, *, fields=b"NNN"):
    """The pickle of a numpy type, and of what it is said to be made of."""
    text = name.encode()
    made = b"cnumpy\ndtype\nX" + len(text).to_bytes(4, "little") + text + b"\x85R"
    return made + b"(K\x03U\x01|" + fields + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def test_a_numpy_type_that_hides_an_object_in_its_bytes_reads_no_memory(tmp_path):
    """With its flags set to zero numpy would take the bytes for the address of an object."""
    fields = b"N" + b"U\x01a\x85" + b"}U\x01a" + dtype("O8") + b"K\x00\x86s"
    for made in (dtype("V8", fields=fields), dtype("O8"), dtype("V8")):
        program = b"\x80\x02}U\x04argscnumpy.core.multiarray\nscalar\n" + made + b"U\x08AAAAAAAA\x86Rs."
        with pytest.raises(InputError, match="a numpy type"):
            file_content(pickled(tmp_path / "net.pth", program))


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy\nndarray\nJ\x00\x00\x00\x77\x85R",  # an array of two thousand million numbers
        b"cbuiltins\nlist\n)R",
        b"cnumpy.core.multiarray\nscalar\n" + dtype("f8") + b"U\x04AAAA\x86R",
    ],
    ids=["ndarray", "list", "short"],
)
def test_nothing_is_called_with_what_a_file_says(tmp_path, program):
    with pytest.raises(InputError, match=r"is refused|cannot be read"):
        file_content(pickled(tmp_path / "net.pth", b"\x80\x02}U\x01a" + program + b"s."))


def test_a_tensor_that_repeats_what_the_file_holds_is_refused(tmp_path):
    torch.save({"head.weight": torch.zeros(1, 8).expand(1_000_000, 8)}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"shape \(1000000, 8\) repeats the 32 bytes"):
        file_content(tmp_path / "net.pth")


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "net.pt")
    assert torch.equal(file_content(tmp_path / "net.pt")["a"], torch.ones(2))


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    content = {"model": {"a": torch.ones(1)}}
    for key in range(40):
        content[f"again{key}"] = content
    torch.save(content, tmp_path / "net.pth")
    assert torch.equal(file_content(tmp_path / "net.pth")["model"]["a"], torch.ones(1))
