"""What a file may say about its network: plain values that describe an architecture, never code, a path or an address.

Files are shared between people, so what `config.json`, the options inside a checkpoint or a recipe's `model_args`
hold is not trusted. timm takes from the same arguments where weights lie and which functions load them; those are
refused by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import build_model_with_cfg, is_model

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PREPROCESSING

_NOT_ARCHITECTURE = frozenset(
    {
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(build_model_with_cfg).parameters,
        # taken by both without standing in their signatures
        *("checkpoint_path", "pruned", "features_only", "out_indices", "feature_cls", "device", "dtype"),
    }
)
"""Arguments that timm keeps for itself: weights, caches, loading functions, wrappers. All others reach the network."""
_WORD = re.compile(r"[\w.+\- ]*")
"""A name that timm looks up in a table of its own, such as `gelu`; no path and no address."""
_DESCRIPTIVE = frozenset(
    {
        *PREPROCESSING,
        *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "test_crop_pct", "pool_size"),
        *("test_pool_size", "num_classes", "label_offset", "label_names", "label_descriptions", "first_conv"),
        *("classifier", "license", "description", "tag"),
    }
)
"""What of timm's `pretrained_cfg` is true of a network; the rest says where published weights lie."""


def require_architecture_args(args: Mapping[str, Any], where: str, *, plain: bool = True) -> None:
    """Refuse arguments of a network that are more than a description of its architecture.

    Args:
        args: for `timm.create_model`, lists and dictionaries inside them included.
        where: the file and the field, as the message names them, such as `net/config.json: model_args`.
        plain: refuse values that no file holds, such as classes; a program may state them.

    Raises:
        InputError: an argument or value is refused; the message says why.
    """
    for name, value in args.items():
        if name in _NOT_ARCHITECTURE:
            raise InputError(
                f"{where}.{name} is refused: it does not describe the architecture, and could name code, a path or "
                "an address; remove it (weights come from --ckpt or --pretrained)"
            )
        _require_plain(value, f"{where}.{name}", plain)
        if name == "num_heads" and isinstance(value, int) and value < 1:  # timm builds a network with -1
            raise InputError(f"{where}.num_heads must be at least 1, got {value}")


def require_architecture_name(name: Any, where: str) -> str:
    """A timm name that stands in a file; `hf-hub:` and `local-dir:` are for the user to state.

    Raises:
        InputError: it is none.
    """
    if not isinstance(name, str) or not _WORD.fullmatch(name) or not is_model(name.split(".")[0]):
        raise InputError(f"{where} {name!r} is no architecture that timm knows; see timm.list_models()")
    return name


def descriptive(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`pretrained_cfg` without what names files, addresses and loading functions.

    These are left out and not refused: timm's own files have them, and nothing is loaded from there.

    Raises:
        InputError: a field is no value, list or mapping of values.
    """
    found = {key: value for key, value in pretrained_cfg.items() if key in _DESCRIPTIVE}
    for key, value in found.items():
        if not _shallow(value, 3):
            raise InputError(f"pretrained_cfg.{key} is no plain value; mend or remove it")
    return found


def _shallow(value: Any, depth: int) -> bool:
    """Whether a value of JSON has lists and mappings inside one another only so many times."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    return inner is None or (depth > 0 and all(_shallow(one, depth - 1) for one in inner))


def _require_plain(value: Any, where: str, plain: bool) -> None:
    if isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise InputError(f"{where} {value!r} is refused: it could name code, a path or an address")
    elif isinstance(value, Mapping):
        require_architecture_args(value, where, plain=plain)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(item, where, plain)
    elif plain and not (value is None or isinstance(value, bool | int | float)):
        raise InputError(f"{where} is refused: a {type(value).__name__} is no plain value")
