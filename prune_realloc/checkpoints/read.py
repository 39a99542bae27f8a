"""A checkpoint file or folder -> its tensors and what it states about its network. No pickle is ever executed."""

from __future__ import annotations

from pathlib import Path

from prune_realloc.checkpoints.folders import read_folder
from prune_realloc.checkpoints.found import Checkpoint, with_weights
from prune_realloc.checkpoints.options import stated
from prune_realloc.checkpoints.shards import content_of
from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Fact


def read_checkpoint(path: Path, ema: bool | None = None) -> Checkpoint:
    """What a checkpoint file, or a folder with `config.json`, holds.

    Args:
        ema: take the averaged weights of a training checkpoint, or the others; None: as the script does that wrote it.

    Raises:
        InputError: it is missing, damaged, needs a pickle to be executed, or says more than what a network looks like.
    """
    if not path.exists():
        raise InputError(f"ckpt {str(path)!r} does not exist")
    if path.is_dir():
        return read_folder(path, ema)
    content = content_of(path)
    found = with_weights(Checkpoint({}), content, path, ema)
    said = stated(content, f"ckpt {str(path)!r}")
    found.architecture = said.name or found.architecture
    found.model_args |= said.model_args
    found.hints, found.squares = said.hints, said.squares
    if said.contradictions:
        found.taken["contradictions"] = Fact(said.contradictions, "the file; neither is taken", guessed=True)
    found.pretrained_cfg |= said.preprocessing
    origins = {what: f"{key} in the file" for what, key in said.origins.items()}
    if said.class_names:
        found.pretrained_cfg["label_names"] = said.class_names
        origins["label_names"] = origins["class_names"]
    found.origins |= origins
    return found
