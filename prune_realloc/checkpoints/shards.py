"""Weights in several files, and the index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.beside import NO_JSON, mapping_in
from prune_realloc.checkpoints.content import file_content
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import INDEX_FILES


def index_of(path: Path) -> Path | None:
    """The index of a folder of shards, or the file itself where it is one; None: the weights are not in shards."""
    if path.is_dir():
        return next((path / name for name in INDEX_FILES if (path / name).is_file()), None)
    return path if path.name.endswith(".index.json") else None


def content_of(path: Path) -> Mapping[str, Any]:
    """What a file, or the shards of an index, hold."""
    index = index_of(path)
    return file_content(path) if index is None else read_shards(index)


def read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors that the index names, and none besides. No pickle is executed.

    Raises:
        InputError: the index is damaged or names files elsewhere, a shard is missing or damaged, or lacks a tensor.
    """
    places = _places(index)
    shards: dict[str, list[str]] = {}
    for tensor, file in places.items():
        shards.setdefault(file, []).append(tensor)
    if missing := [file for file in sorted(shards) if not (index.parent / file).is_file()]:
        raise InputError(
            f"ckpt {str(index)!r}: shard {missing[0]!r} is missing ({len(missing)} of {len(shards)}); "
            "put it beside the index"
        )
    state: dict[str, Tensor] = {}
    for file, wanted in sorted(shards.items()):
        found = file_content(index.parent / file)
        if absent := [name for name in wanted if not isinstance(found.get(name), Tensor)]:
            raise InputError(
                f"ckpt {str(index)!r}: shard {file!r} does not hold {absent[0]!r} ({len(absent)} are absent); "
                "it is of another checkpoint, fetch all files again"
            )
        state |= {name: found[name] for name in wanted}
    return state


def _places(index: Path) -> dict[str, str]:
    """Tensor -> the name of the file beside the index that holds it."""
    try:
        places = mapping_in(index)["weight_map"]
        if not isinstance(places, Mapping) or not places:
            raise TypeError("weight_map names no tensors")
    except (KeyError, *NO_JSON) as error:
        raise InputError(f"ckpt {str(index)!r} is no index of shards ({error!r}); fetch it again") from error
    except OSError as error:
        raise InputError(f"ckpt {str(index)!r} cannot be read ({error.strerror})") from error
    for tensor, file in places.items():
        # a file of somebody else's must not name paths of this machine
        if not isinstance(file, str) or not _is_plain(file):
            raise InputError(
                f"ckpt {str(index)!r}: weight_map[{tensor!r}] {file!r} is refused: shards are .safetensors or .bin "
                "files beside the index"
            )
    return dict(places)


def _is_plain(name: str) -> bool:
    parts = Path(name).parts
    harmless = len(parts) == 1 and parts[0] == name and not set(name) & set("/\\:\0") and not name.startswith(".")
    return harmless and name.endswith((".safetensors", ".bin", ".pt", ".pth"))
