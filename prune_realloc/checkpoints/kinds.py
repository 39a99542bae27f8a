"""Files that hold no tensors that can be read here, told by their content, each with the way to what is needed.

Nothing is unpickled or executed, and no more than headers and tables of contents are read.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from prune_realloc.checkpoints.kinds_of_folders import CONSOLIDATE_DEEPSPEED, CONSOLIDATE_TORCH, refuse_folder
from prune_realloc.checkpoints.pickled import Names, is_torch_stream, names_in
from prune_realloc.core.errors import InputError

_STATE = "torch.save(net.state_dict(), 'weights.pth')"
_UNPACK = "unpack it and give the file inside"
_CONVERT = "load it with the library that wrote it, and save the tensors by timm's names with safetensors or torch.save"
_NUMPY = "load it with numpy, make tensors of the arrays by timm's names, and save them with safetensors or torch.save"
_ADAPTER = (
    "an adapter (LoRA, PEFT) without the network that it changes",
    "merge it first: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained('merged')",
)
_QUANTISED = ("quantised weights", "give the weights from before the quantisation")
_FSDP = (
    "one process's part of a sharded (FSDP) checkpoint",
    f"save it with FULL_STATE_DICT, or {CONSOLIDATE_TORCH}",
)
_DEEPSPEED = ("one process's part of a sharded DeepSpeed checkpoint", CONSOLIDATE_DEEPSPEED)
_FLAX = ("a Flax (msgpack) checkpoint", f"{_CONVERT}; transformers before version 5 does it with from_flax=True")
_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"version https://git-lfs", 0, "a pointer of Git LFS and not the file itself", "fetch it with git lfs pull"),
    (b"\x93NUMPY", 0, "a NumPy array (.npy)", _NUMPY),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file, as Keras and TensorFlow write them", _CONVERT),
    (b"GGUF", 0, "a GGUF file of quantised weights", _QUANTISED[1]),
    (b"TFL3", 4, "a TensorFlow Lite network", "give the checkpoint that it was exported from"),
    (b"model_checkpoint_path:", 0, "the note of a TensorFlow checkpoint", _CONVERT),
    (b"\x1f\x8b", 0, "a gzip archive", _UNPACK),
    (b"BZh", 0, "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", 0, "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", _UNPACK),
    (b"Rar!", 0, "a rar archive", _UNPACK),
    (b"ustar", 257, "a tar archive", _UNPACK),
    (b"\x89PNG", 0, "a picture", "give the file of the weights"),
    (b"\xff\xd8\xff", 0, "a picture", "give the file of the weights"),
    (b"%PDF", 0, "a PDF document", "give the file of the weights"),
)
"""What stands at a place in the file, what the file then is, and the remedy."""
_LEVELDB = bytes.fromhex("57fb808b247547db")
"""The end of a table, in which TensorFlow keeps the index of a checkpoint."""
_LORA = re.compile(r"(^|\.|_)(lora_[AB]|lora_(up|down)|lora_embedding_[AB]|hada_w[12]_[ab]|lokr_w[12]|ia3_l)\b")
_PACKED = re.compile(r"\.(qweight|qzeros|absmax|quant_map|quant_state\b.*|_packed_params.*)$")


def refuse_kind(path: Path) -> None:
    """Refuse what is no file or folder of tensors, by its kind. Whatever is left may still be damaged.

    Raises:
        InputError: one line: what it is, and the way to what is needed.
    """
    try:
        found = refuse_folder(path) if path.is_dir() else _kind(path)
    except OSError as error:
        raise InputError(f"ckpt {str(path)!r} cannot be read ({error.strerror})") from error
    if found is not None:
        raise InputError(f"ckpt {str(path)!r} is {found[0]}: {found[1]}")


def _kind(path: Path) -> tuple[str, str] | None:
    if path.suffix == ".distcp" or path.name == ".metadata":
        return _FSDP
    if re.match(r"(bf16_|fp16_)?zero_pp_rank_", path.name):
        return _DEEPSPEED
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(size - 8, 0))
        tail = file.read(8)
    for magic, at, kind, remedy in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind, remedy
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if is_torch_stream(head):
        with path.open("rb") as file:
            return _pickle_kind(names_in(file.read(8 * 2**20), pickles=4))
    if head[5:9] == b"\0\0\0{":
        return _safetensors_kind(path)
    return _text_kind(head) or _binary_kind(head, tail, path.name)


def _text_kind(head: bytes) -> tuple[str, str] | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "a web page and not the file behind it",
            "download the file itself, for Hugging Face by its /resolve/ address",
        )
    if start.startswith(b"{") and b'"weight_map"' not in head and b'"' in start:
        return "JSON text and no file of weights", "give the weights, or the folder that holds both"
    return None


def _binary_kind(head: bytes, tail: bytes, name: str) -> tuple[str, str] | None:
    """Formats without a magic number, by how their first fields are written."""
    if tail == _LEVELDB or re.search(r"\.data-\d{5}-of-\d{5}$", name):
        return "a part of a TensorFlow checkpoint", _CONVERT
    if head[:3] == b"\x08\x01\x12":
        return "a TensorFlow saved model", _CONVERT
    if (
        head[:1] == b"\x08"
        and head[1:2]
        and 2 <= head[1] <= 32
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42")
    ):
        return "an ONNX network", f"give the checkpoint that it was exported from, {_STATE}"
    if re.match(rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[\w.\-/]", head, re.DOTALL):
        return _FLAX
    if re.match(rb"\x80[\x02-\x05]", head):
        return "a pickle that torch did not write", "save the tensors alone with torch.save or safetensors"
    return None


def _zip_kind(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            inner = {name.partition("/")[2] or name for name in members}
            if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
                return "a TorchScript archive", f"with net = torch.jit.load(file, map_location='cpu'): {_STATE}"
            if any("exported_program" in name or name.endswith("archive_format") for name in members):
                return "a program of torch.export", "torch.save(torch.export.load(file).state_dict, 'weights.pth')"
            pickled = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
            if pickled is not None:
                with archive.open(pickled) as file:
                    return _pickle_kind(names_in(file.read(8 * 2**20)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        return None  # the file's reader says that it is damaged
    if members and all(name.endswith(".npy") for name in members):
        return (
            "an archive of NumPy arrays (.npz)",
            f"{_NUMPY}; timm reads those of Google's ViT: net.load_pretrained(file)",
        )
    if any(name.endswith((".weights.h5", "variables.h5")) for name in members):
        return "a Keras archive", _CONVERT
    return "a zip archive", _UNPACK


def _pickle_kind(names: Names) -> tuple[str, str] | None:
    if any(call.endswith(("_rebuild_qtensor", "PackedParams")) for call in names.calls):
        return _QUANTISED
    if any("sharded_tensor" in call or call.endswith("DTensor") for call in names.calls):
        return _FSDP
    if "fp32_flat_groups" in names.texts or {"optimizer_state_dict", "ds_config", "partition_count"} <= names.texts:
        return _DEEPSPEED
    if (kind := names.module_class()) is not None:
        return (
            f"a network pickled whole ({kind})",
            f"open it where its classes are, and save its tensors alone: {_STATE}",
        )
    return _names_kind(names.texts)


def _names_kind(names: Collection[str]) -> tuple[str, str] | None:
    if any(_LORA.search(name) for name in names):
        return _ADAPTER
    return _QUANTISED if any(_PACKED.search(name) for name in names) else None


def _safetensors_kind(path: Path) -> tuple[str, str] | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100 * 2**20:
            return None
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return None
    return _names_kind(list(header)) if isinstance(header, dict) else None
