"""A checkpoint file or folder -> its tensors and what it states about its network. No pickle is ever executed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prune_realloc.checkpoints.allowed import descriptive, require_architecture_args, require_architecture_name
from prune_realloc.checkpoints.containers import select_weights
from prune_realloc.checkpoints.options import class_names, stated
from prune_realloc.checkpoints.prefixes import unwrapped
from prune_realloc.checkpoints.unpickle import unpickled
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import CHECKSUMS, checksums
from prune_realloc.core.names import WEIGHTS_FILES
from prune_realloc.core.taken import Fact
from prune_realloc.families import FAMILIES

FORMAT_VERSION = 1
"""Of the `config.json` that this package writes."""
_LOG = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """A file's content, before the architecture is known; what it says of the network passed the rule of `allowed`."""

    state: dict[str, Tensor]
    """The tensors by the names that the network gives them."""
    architecture: str | None = None
    """timm's name of the network, where the file states one."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """The arguments for `timm.create_model` that the file states."""
    hints: dict[str, Any] = field(default_factory=dict)
    """What it says of such arguments in other words, where the shapes do not say more."""
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    """The fields of timm's `pretrained_cfg` that the file states, as far as they describe the network."""
    files_sha256: dict[str, str] = field(default_factory=dict)
    """The files that a `config.json` was written with: name -> SHA-256. Empty where it names none, as timm's do not."""
    origins: dict[str, str] = field(default_factory=dict)
    """What states the architecture (`name`), an argument, or a field of `pretrained_cfg`: a key in the file."""
    taken: dict[str, Fact] = field(default_factory=dict)
    """Which weights of the file these are, and what was left out."""


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
        return _read_folder(path, ema)
    if path.stat().st_size == 0:
        raise InputError(f"ckpt {str(path)!r} is empty")
    content = _content(path)
    found = _with_weights(Checkpoint({}), content, path, ema)
    said = stated(content, f"ckpt {str(path)!r}")
    found.architecture, found.model_args, found.hints = said.name, said.model_args, said.hints
    found.pretrained_cfg = dict(said.preprocessing)
    if said.class_names:
        found.pretrained_cfg["label_names"] = said.class_names
        found.origins["label_names"] = said.origins["class_names"]
    found.origins |= {what: f"{key} in the file" for what, key in said.origins.items()}
    return found


def _with_weights(found: Checkpoint, content: Mapping[str, Any], path: Path, ema: bool | None) -> Checkpoint:
    """The weights of a file's content into `found`, with what was taken and left out."""
    weights = select_weights(content, path, ema)
    bare = unwrapped(weights.state, _is_network)
    found.state = bare.state
    value = f"{path.name}: {weights.place or 'all tensors'}{', averaged' if weights.averaged else ''}"
    origin = "--ema" if ema is not None else "the file"
    if weights.others:
        origin += f"; it also holds {', '.join(weights.others)}"
    found.taken["weights"] = Fact(value, origin)
    if bare.prefix:
        found.taken["prefix"] = Fact(bare.prefix, "common to all names")
    if bare.left_out:
        shown = ", ".join(bare.left_out[:3]) + (", ..." if len(bare.left_out) > 3 else "")
        found.taken["tensors left out"] = Fact(len(bare.left_out), f"not the network's by their names: {shown}")
    if bare.head:
        found.taken["head"] = Fact(bare.head, "its place behind the backbone", guessed=True)
    return found


def _is_network(state: Mapping[str, Tensor]) -> bool:
    return any(family.recognises(state) for family in FAMILIES.values())


def _read_folder(path: Path, ema: bool | None) -> Checkpoint:
    if (path / "last" / "config.json").is_file():
        raise InputError(f"ckpt {str(path)!r} is the folder of a training run; give {path / 'last'} or {path / 'best'}")
    found = read_config(path)
    weights = next((path / name for name in WEIGHTS_FILES if (path / name).is_file()), None)
    if weights is None:
        raise InputError(
            f"ckpt {str(path)!r} has a config.json but none of {', '.join(WEIGHTS_FILES)}: its network is "
            "not trained yet"
        )
    _with_weights(found, _content(weights), weights, ema)
    _note_replaced(weights, found.files_sha256)
    return found


def _note_replaced(weights: Path, named: Mapping[str, str]) -> None:
    """Says where weights are not those that their `config.json` names: perhaps of another run, so it is said.

    It is no reason to refuse them: they may have been trained further with other tools.
    """
    if weights.name in named and checksums({weights.name: weights.read_bytes()}) != {weights.name: named[weights.name]}:
        _LOG.warning("note: %s is another file than the config.json beside it was written with", weights)


def read_config(path: Path) -> Checkpoint:
    """What the `config.json` of a folder says, without weights.

    Raises:
        InputError: there is none, it is damaged, or it says more than what a network looks like.
    """
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"ckpt {str(path)!r} is a folder without config.json; give the weight file instead")
    try:
        content = json.loads(config.read_text())
        name = str(content["architecture"])
        pretrained_cfg = dict(content.get("pretrained_cfg", content))  # timm's older files have one level only
        model_args = dict(content.get("model_args") or {})
        if "num_classes" in content:
            model_args.setdefault("num_classes", int(content["num_classes"]))
        version = content.get("format_version", FORMAT_VERSION)  # timm writes none
        files_sha256 = dict(content.get(CHECKSUMS) or {})
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # of bytes and of JSON too
        raise InputError(f"{config} is not a model configuration as timm writes it ({error!r})") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{config}: format_version {version!r}, this program reads {FORMAT_VERSION}")
    require_architecture_name(name, f"{config}: architecture")
    require_architecture_args(model_args, f"{config}: model_args")
    found = Checkpoint({}, name, model_args, pretrained_cfg=descriptive(pretrained_cfg), files_sha256=files_sha256)
    names = class_names(found.pretrained_cfg.get("label_names") or content.get("label_names"))
    if names:
        found.pretrained_cfg["label_names"] = names
    found.origins = dict.fromkeys(("name", *model_args, *found.pretrained_cfg), "config.json")
    return found


def _content(path: Path) -> Mapping[str, Any]:
    """A file's tensors, and what lies beside them."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"ckpt {str(path)!r} is not a whole safetensors file ({error})") from error
    content = unpickled(path)
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt {str(path)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    return content
