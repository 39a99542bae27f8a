"""Weights in several files: all of them, or one line that says which is missing."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from support.checkpoints import Hostile

from prune_realloc.checkpoints.shards import index_of, read_shards
from prune_realloc.core.errors import InputError

STATE = {"a": torch.arange(3.0), "b": torch.ones(2, 2), "c": torch.zeros(1)}


def sharded(folder: Any, kind: str = "safetensors", weight_map: Any = None) -> Any:
    names = [f"model-0000{part}-of-00002.{kind}" for part in (1, 2)]
    parts = ({"a": STATE["a"], "b": STATE["b"]}, {"c": STATE["c"]})
    for name, part in zip(names, parts, strict=True):
        if kind == "bin":
            torch.save(part, folder / name)
        else:
            safetensors.torch.save_file(part, folder / name)
    stem = "pytorch_model.bin" if kind == "bin" else "model.safetensors"
    index = folder / f"{stem}.index.json"
    places = {"a": names[0], "b": names[0], "c": names[1]} if weight_map is None else weight_map
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_tensors_from_folder_and_index(tmp_path, kind):
    index = sharded(tmp_path, kind)
    assert index_of(tmp_path) == index_of(index) == index
    state = read_shards(index)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_one_file_is_no_set_of_shards(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert index_of(tmp_path) is None
    assert index_of(tmp_path / "model.safetensors") is None


def test_missing_shard(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"shard 'model-00002-of-00002.safetensors' is missing \(1 of 2\)"):
        read_shards(index)


def test_shard_of_another_checkpoint(tmp_path):
    index = sharded(tmp_path)
    safetensors.torch.save_file({"other": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match="does not hold 'c'"):
        read_shards(index)


def test_damaged_and_unfetched_shards(tmp_path):
    index = sharded(tmp_path)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_shards(index)
    shard.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        read_shards(index)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        ".hidden.bin",
        "c:\\x.bin",
        "http://x/y.bin",
        "x.py",
        3,
    ],
)
def test_shards_lie_beside_the_index(tmp_path, name):
    with pytest.raises(InputError, match="is refused"):
        read_shards(sharded(tmp_path, weight_map={"a": name}))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100000])
def test_damaged_index(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(InputError, match="is no index of shards") as caught:
        read_shards(index)
    assert "\n" not in str(caught.value)


def test_no_shard_is_executed(tmp_path):
    index = sharded(tmp_path, "bin")
    torch.save({"a": Hostile(tmp_path / "marker")}, tmp_path / "model-00001-of-00002.bin")
    with pytest.raises(InputError, match=r"calls (posix|nt)\.mkdir"):
        read_shards(index)
    assert not (tmp_path / "marker").exists()
