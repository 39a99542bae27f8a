"""A folder with weights and a `config.json`: of timm, of this package, or of another library."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune_realloc.checkpoints.allowed import descriptive, require_architecture_args, require_architecture_name
from prune_realloc.checkpoints.beside import config_in, preprocessor_in, read_json, weights_in
from prune_realloc.checkpoints.found import Checkpoint, with_weights
from prune_realloc.checkpoints.kinds import refuse_kind
from prune_realloc.checkpoints.layouts import LAYOUTS
from prune_realloc.checkpoints.measures import scaled
from prune_realloc.checkpoints.options import class_names
from prune_realloc.checkpoints.shards import content_of
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import CHECKSUMS, checksums
from prune_realloc.core.names import PREPROCESSING, WEIGHTS_FILES
from prune_realloc.data.measures import measure

FORMAT_VERSION = 1
"""Of the `config.json` that this package writes."""
_LOG = logging.getLogger(__name__)


def read_folder(path: Path, ema: bool | None) -> Checkpoint:
    """What the folder holds and states.

    Raises:
        InputError: weights or `config.json` are missing or damaged, or are of a layout that is not read.
    """
    if (path / "last" / "config.json").is_file():
        raise InputError(f"ckpt {str(path)!r} is the folder of a training run; give {path / 'last'} or {path / 'best'}")
    refuse_kind(path)
    config = config_in(path)
    foreign = is_foreign(config)
    found = Checkpoint({}) if foreign else read_config(path)
    weights = weights_in(path)
    if weights is None:
        raise InputError(
            f"ckpt {str(path)!r} has a config.json but none of {', '.join(WEIGHTS_FILES)}: its network is "
            "not trained yet"
        )
    if not foreign:
        with_weights(found, content_of(weights), weights, ema)
        _note_replaced(weights, found.files_sha256)
        return found
    with_weights(found, content_of(weights), weights, ema, config, preprocessor_in(path))
    if "layout" not in found.taken:
        raise InputError(
            f"ckpt {str(path)!r} is a folder of another library ({_kind_of(config or {})}), in none of the layouts "
            f"that are read: {', '.join(LAYOUTS)}; give timm's weights"
        )
    return found


def is_foreign(config: Mapping[str, Any] | None) -> bool:
    """Whether the `config.json` of a folder, if it has one, is of another library than timm and this package."""
    return config is not None and ("architecture" not in config or config.get("model_type") == "timm_wrapper")


def _kind_of(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    return f"transformers' {classes[0]}" if isinstance(classes, list) and classes else "its config.json names no class"


def _note_replaced(weights: Path, named: Mapping[str, str]) -> None:
    """Says where weights are not those that their `config.json` names: perhaps of another run, so it is said.

    It is no reason to refuse them: they may have been trained further with other tools.
    """
    if weights.name in named and checksums({weights.name: weights.read_bytes()}) != {weights.name: named[weights.name]}:
        _LOG.warning("note: %r is another file than the config.json beside it was written with", str(weights))


def read_config(path: Path) -> Checkpoint:
    """What the `config.json` of a folder says, without weights.

    Raises:
        InputError: there is none, it is damaged, or it says more than what a network looks like.
    """
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"ckpt {str(path)!r} is a folder without config.json; give the weight file instead")
    content = read_json(config)
    try:
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
    names = class_names(found.pretrained_cfg.pop("label_names", None) or content.get("label_names"))
    if names:
        found.pretrained_cfg["label_names"] = names
    found.origins = dict.fromkeys(("name", *model_args, *found.pretrained_cfg), "config.json")
    _check_measures(found, config)
    return found


def _check_measures(found: Checkpoint, config: Path) -> None:
    """Which images it takes, and how they are prepared, for pixels from 0 to 1."""
    size = found.pretrained_cfg.get("input_size", (1, 1, 1))
    if not isinstance(size, list | tuple) or [type(side) for side in size] != [int] * 3 or min(size) < 1:
        raise InputError(f"{config}: pretrained_cfg.input_size {size!r} is no (channels, height, width); mend it")
    stated = {key: found.pretrained_cfg[key] for key in PREPROCESSING if found.pretrained_cfg.get(key) is not None}
    for key, value in stated.items():
        if measure(key, value) is None:
            raise InputError(f"{config}: pretrained_cfg.{key} {value!r} prepares no image; mend or remove it")
    values, large = scaled({key: measure(key, value) for key, value in stated.items()})
    found.pretrained_cfg |= values
    found.origins |= dict.fromkeys(large, "config.json, divided by 255")
