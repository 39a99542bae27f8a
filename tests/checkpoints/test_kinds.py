"""What holds no tensors that can be read is refused by its kind, with the remedy, and nothing is executed."""

import io
import json
import pickle
import tarfile
import zipfile
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.checkpoints import Hostile, saved
from support.networks import build
from torch import nn

from prune_realloc.checkpoints.kinds import refuse_kind
from prune_realloc.core.errors import InputError

WEIGHTS = {"head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)}


def onnx_file() -> bytes:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    return onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString()


def torch_script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), buffer)
    return buffer.getvalue()


def exported_program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), buffer)
    return buffer.getvalue()


def torch_file(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, kernel=np.ones(3))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


def tarred(mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def adapter() -> dict[str, torch.Tensor]:
    return {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(2, 3)}


KINDS: dict[str, tuple[Any, str, str]] = {
    "torch script": (torch_script, "a TorchScript archive", "torch.jit.load"),
    "torch export": (exported_program, "torch.export", "torch.export.load"),
    "npz": (npz, "NumPy arrays", "load it with numpy"),
    "npy": (npy, "NumPy array", "load it with numpy"),
    "onnx": (onnx_file, "ONNX", "exported from"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "save the tensors"),
    "keras 3": (lambda: zipped("model.weights.h5"), "Keras", "save the tensors"),
    "saved model": (lambda: b"\x08\x01\x12\xb0\x01" + bytes(100), "TensorFlow saved model", "save the tensors"),
    "tensorflow index": (lambda: bytes(100) + bytes.fromhex("57fb808b247547db"), "TensorFlow checkpoint", "tensors"),
    "flax": (lambda: b"\x81\xa6params\x81\xa3vit\x80", "Flax", "from_flax"),
    "gguf": (lambda: b"GGUF\x03" + bytes(20), "GGUF", "before the quantisation"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
    "html": (lambda: b"\n<!DOCTYPE html><html><body>Not found", "web page", "download the file itself"),
    "json": (lambda: b'{"error": "Repository not found"}', "JSON text", "give the weights"),
    "tar": (lambda: tarred("w"), "tar archive", "unpack"),
    "tar.gz": (lambda: tarred("w:gz"), "gzip archive", "unpack"),
    "zip": (lambda: zipped("weights.pth"), "zip archive", "unpack"),
    "adapter": (lambda: torch_file(adapter()), "adapter (LoRA, PEFT)", "merge_and_unload"),
    "safe adapter": (lambda: safetensors.torch.save(adapter()), "adapter (LoRA, PEFT)", "merge_and_unload"),
    "whole network": (
        lambda: torch_file(nn.Linear(3, 2)),
        "pickled whole (torch.nn.modules.linear.Linear)",
        "state_dict",
    ),
    "whole network, older format": (
        lambda: torch_file({"model": nn.Linear(3, 2)}, _use_new_zipfile_serialization=False),
        "pickled whole",
        "state_dict",
    ),
    "quantised": (
        lambda: torch_file({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        "quantised",
        "before the quantisation",
    ),
    "packed": (
        lambda: safetensors.torch.save({"blocks.0.attn.qkv.qweight": torch.ones(2)}),
        "quantised",
        "before the quantisation",
    ),
    "plain pickle": (lambda: pickle.dumps({"w": 1}), "pickle that torch did not write", "safetensors"),
    "deepspeed part": (
        lambda: torch_file({"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(3)]}}),
        "DeepSpeed",
        "zero_to_fp32.py",
    ),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("case", KINDS)
def test_kind_and_remedy_are_named_whatever_the_suffix(tmp_path, case, suffix):
    content, kind, remedy = KINDS[case]
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content())
    with pytest.raises(InputError) as caught:
        refuse_kind(path)
    message = str(caught.value)
    assert kind in message
    assert remedy in message
    assert message.startswith(f"ckpt {str(path)!r} is ")
    assert "\n" not in message


FOLDERS = {
    "adapter_config.json": "merge_and_unload",
    ".metadata": "dcp_to_torch",
    "__0_0.distcp": "dcp_to_torch",
    "zero_to_fp32.py": "zero_to_fp32.py . consolidated",
    "saved_model.pb": "TensorFlow saved model",
    "flax_model.msgpack": "Flax",
    "tf_model.h5": "TensorFlow",
    "model.onnx": "ONNX",
    "manifest.ocdbt": "Orbax",
    "model-Q4.gguf": "quantised",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_by_their_files_unless_weights_lie_beside(tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"ckpt .* is .*: ") as caught:
        refuse_kind(tmp_path)
    assert FOLDERS[name] in str(caught.value)
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(WEIGHTS))
    refuse_kind(tmp_path)


def test_sharded_checkpoint_of_torch_itself(tmp_path):
    from torch.distributed import checkpoint

    checkpoint.save(WEIGHTS, checkpoint_id=tmp_path, no_dist=True)
    for path in (tmp_path, *tmp_path.iterdir()):
        with pytest.raises(InputError, match="dcp_to_torch"):
            refuse_kind(path)


def test_deepspeed_file_by_its_name(tmp_path):
    with pytest.raises(InputError, match="zero_to_fp32"):
        refuse_kind(saved(tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt", {"module": WEIGHTS}))
    refuse_kind(saved(tmp_path / "mp_rank_00_model_states.pt", {"module": WEIGHTS}))


@pytest.mark.parametrize("older", [False, True])
def test_checkpoints_pass(tmp_path, older):
    state = build().state_dict()
    content = {"model": state, "optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1).state_dict(), "epoch": 3}
    refuse_kind(saved(tmp_path / "last.pth.tar", content))
    (tmp_path / "older.pt").write_bytes(torch_file(content, _use_new_zipfile_serialization=not older))
    refuse_kind(tmp_path / "older.pt")
    (tmp_path / "parameters.pt").write_bytes(torch_file({"w": nn.Parameter(torch.ones(2))}))
    refuse_kind(tmp_path / "parameters.pt")
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(state))
    refuse_kind(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": "b"}}))
    refuse_kind(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("older", [False, True])
def test_nothing_is_executed(tmp_path, older):
    path = tmp_path / "hostile.pth"
    path.write_bytes(torch_file({"w": Hostile(tmp_path / "marker")}, _use_new_zipfile_serialization=not older))
    refuse_kind(path)  # the reader refuses it
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "marker")))
    with pytest.raises(InputError, match="pickle"):
        refuse_kind(path)
    assert not (tmp_path / "marker").exists()


def test_damage_is_left_to_the_readers(tmp_path):
    generator = np.random.default_rng(0)
    originals = [
        torch_file(WEIGHTS),
        safetensors.torch.save(WEIGHTS),
        torch_script(),
        npz(),
        torch_file(nn.Linear(2, 2)),
    ]
    path = tmp_path / "damaged.pth"
    for round_ in range(200):
        content = bytearray(originals[round_ % len(originals)])
        for place in generator.integers(0, len(content), 8):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content[: generator.integers(1, len(content))] if round_ % 2 else content)
        with suppress(InputError):
            refuse_kind(path)
