"""Files that hold no tensors that can be read here, told by their content, each with the way to what is needed.

Nothing is unpickled or executed, and no more than headers and tables of contents are read.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from prune_realloc.checkpoints.kinds_of_folders import CONSOLIDATE_DEEPSPEED, CONSOLIDATE_TORCH, kind_of_folder
from prune_realloc.checkpoints.magic import (
    CONVERT,
    MERGE,
    NUMPY,
    STATE,
    UNPACK,
    UNQUANTISED,
    is_safetensors,
    kind_of_bytes,
)
from prune_realloc.checkpoints.pickled import Names, is_torch_stream, names_in
from prune_realloc.core.errors import InputError

_ADAPTER = (
    "an adapter (LoRA, PEFT) without the network that it changes",
    MERGE,
)
_QUANTISED = ("quantised weights", UNQUANTISED)
_FSDP = (
    "one process's part of a sharded (FSDP) checkpoint",
    f"save it with FULL_STATE_DICT, or {CONSOLIDATE_TORCH}",
)
_DEEPSPEED = ("one process's part of a sharded DeepSpeed checkpoint", CONSOLIDATE_DEEPSPEED)
_LORA = re.compile(r"(^|\.|_)(lora_[AB]|lora_(up|down)|lora_embedding_[AB]|hada_w[12]_[ab]|lokr_w[12]|ia3_l)\b")
_PACKED = re.compile(r"\.(qweight|qzeros|absmax|quant_map|quant_state\b.*|_packed_params.*)$")


def refuse_kind(path: Path) -> None:
    """Refuse what is no file or folder of tensors, by its kind. Whatever is left may still be damaged.

    Raises:
        InputError: one line: what it is, and the way to what is needed.
    """
    try:
        found = kind_of_folder(path) if path.is_dir() else _kind(path)
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
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if is_torch_stream(head):
        with path.open("rb") as file:
            return _pickle_kind(names_in(file.read(8 * 2**20), pickles=4))
    if is_safetensors(head):
        return _safetensors_kind(path)
    return kind_of_bytes(head, tail, path.name)


def _zip_kind(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            inner = {name.partition("/")[2] or name for name in members}
            if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
                return "a TorchScript archive", f"with net = torch.jit.load(file, map_location='cpu'): {STATE}"
            if any("exported_program" in name or name.endswith("archive_format") for name in members):
                return "a program of torch.export", "torch.save(torch.export.load(file).state_dict, 'weights.pth')"
            pickled = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
            if pickled is not None:
                with archive.open(pickled) as file:
                    return _pickle_kind(names_in(file.read(8 * 2**20)))
    except Exception:  # zipfile raises many kinds; the file's reader says that it is damaged
        return None
    if members and all(name.endswith(".npy") for name in members):
        return (
            "an archive of NumPy arrays (.npz)",
            f"{NUMPY}; timm reads those of Google's ViT: net.load_pretrained(file)",
        )
    if any(name.endswith((".weights.h5", "variables.h5")) for name in members):
        return "a Keras archive", CONVERT
    return "a zip archive", UNPACK


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
            f"open it where its classes are, and save its tensors alone: {STATE}",
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
