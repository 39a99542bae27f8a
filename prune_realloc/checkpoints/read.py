"""A checkpoint file or folder -> its tensors and what it states about its network. No pickle is ever executed."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import is_model
from torch import Tensor

from prune_realloc.checkpoints.allowed import descriptive, require_architecture_args, require_architecture_name
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.files import CHECKSUMS, checksums
from prune_realloc.core.names import PREPROCESSING, WEIGHTS_FILES

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before the name of every tensor: DDP, torch.compile, EMA and Lightning."""
_WEIGHT_KEYS = ("state_dict", "model", "model_state_dict")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema")
"""Where a training checkpoint has its averaged weights."""
FORMAT_VERSION = 1
"""Of the `config.json` that this package writes."""
_LOG = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """A file's content, before the architecture is known; what it says of the network passed the rule of `allowed`."""

    state: dict[str, Tensor]
    """The tensors by their names in the file, without the prefixes of wrappers."""
    architecture: str | None = None
    """timm's name of the network, where the file states one."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """The arguments for `timm.create_model` that the file states."""
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    """The fields of timm's `pretrained_cfg` that the file states, as far as they describe the network."""
    files_sha256: dict[str, str] = field(default_factory=dict)
    """The files that a `config.json` was written with: name -> SHA-256. Empty where it names none, as timm's do not."""


def read_checkpoint(path: Path, ema: bool) -> Checkpoint:
    """What a checkpoint file, or a folder with `config.json`, holds.

    Args:
        ema: take the averaged weights of a training checkpoint.

    Raises:
        InputError: it is missing, damaged, needs a pickle to be executed, or says more than what a network looks like.
    """
    if not path.exists():
        raise InputError(f"ckpt {str(path)!r} does not exist")
    if path.is_dir():
        return _read_folder(path)
    if path.stat().st_size == 0:
        raise InputError(f"ckpt {str(path)!r} is empty")
    content = _read_tensors(path)
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt {str(path)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    found = Checkpoint(without_prefixes(_select_weights(content, path, ema)))
    _add_training_options(found, content, path)
    return found


def _add_training_options(found: Checkpoint, content: Mapping[str, Any], path: Path) -> None:
    """What timm's and DeiT's training scripts note beside the weights."""
    arguments = content.get("args")
    options = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    options = options if isinstance(options, Mapping) else {}
    name = content.get("arch") or options.get("model")
    # other scripts note names of their own there; these are not timm's, and tell nothing
    if isinstance(name, str) and is_model(name.removeprefix("timm/")):
        found.architecture = name.removeprefix("timm/")
    if isinstance(options.get("model_kwargs"), Mapping):
        require_architecture_args(options["model_kwargs"], f"ckpt {str(path)!r}: args.model_kwargs")
        found.model_args |= dict(options["model_kwargs"])
    found.pretrained_cfg |= {key: options[key] for key in PREPROCESSING if options.get(key) is not None}


def _read_folder(path: Path) -> Checkpoint:
    if (path / "last" / "config.json").is_file():
        raise InputError(f"ckpt {str(path)!r} is the folder of a training run; give {path / 'last'} or {path / 'best'}")
    found = read_config(path)
    weights = next((path / name for name in WEIGHTS_FILES if (path / name).is_file()), None)
    if weights is None:
        raise InputError(
            f"ckpt {str(path)!r} has a config.json but none of {', '.join(WEIGHTS_FILES)}: its network is "
            "not trained yet"
        )
    found.state = without_prefixes(_select_weights(_read_tensors(weights), weights, ema=False))
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
    return Checkpoint({}, name, model_args, descriptive(pretrained_cfg), files_sha256)


def _read_tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"ckpt {str(path)!r} is not a whole safetensors file ({error})") from error
    # an argparse.Namespace is a bag of values (timm and DeiT save their options in one); nothing else is let in, and
    # where the program already lets it in, leaving the context must not take that away
    known = torch.serialization.get_safe_globals()
    extra: list[Any] = [kind for kind in (argparse.Namespace,) if kind not in known]
    try:
        with torch.serialization.safe_globals(extra):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _unpickling_reason(str(error))
        raise InputError(f"ckpt {str(path)!r} is refused: {reason}; save its state_dict alone, as tensors") from error
    except Exception as error:  # whatever the unpickler stumbles over: the file is no checkpoint
        raise InputError(
            f"ckpt {str(path)!r} cannot be read, it is damaged or no checkpoint ({first_line(error)})"
        ) from error


def _unpickling_reason(message: str) -> str:
    """What torch's long message about a refused pickle comes down to."""
    if found := re.search(
        r"(?:Unsupported global: GLOBAL|Unsupported class|WeightsUnpickler error:.*?GLOBAL) ([\w.]+)", message
    ):
        return f"reading it would execute a pickle that calls {found[1]}"
    if found := re.search(r"Unsupported operand (\d+)", message):
        return f"it is no checkpoint, or a pickle with an operation that is not let in ({found[1]})"
    lines = [line for line in message.splitlines() if "WeightsUnpickler error" in line] or message.splitlines()
    return lines[0].strip() if lines else "it is not a file of tensors"


def _select_weights(content: Mapping[str, Any], path: Path, ema: bool) -> Mapping[str, Any]:
    """The part of a checkpoint with the weights: the averaged ones if asked for or alone, else the plain ones."""

    def first(keys: tuple[str, ...]) -> Mapping[str, Any] | None:
        return next((content[key] for key in keys if isinstance(content.get(key), Mapping) and content[key]), None)

    averaged, plain = first(_EMA_KEYS), first(_WEIGHT_KEYS)
    if ema and averaged is None:
        raise InputError(f"ema: {str(path)!r} holds no averaged weights (looked for {', '.join(_EMA_KEYS)})")
    if ema or (plain is None and averaged is not None):
        return averaged or {}
    return plain if plain is not None else content


def without_prefixes(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors only, without the prefixes that wrappers put before every name."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _PREFIXES if tensors and all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
