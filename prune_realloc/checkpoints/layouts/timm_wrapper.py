"""Folders of Hugging Face's TimmWrapper: timm's network, with its tensors behind a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune_realloc.checkpoints.allowed import descriptive, require_architecture_args, require_architecture_name
from prune_realloc.checkpoints.layouts.stated import Stated
from prune_realloc.checkpoints.layouts.translated import Config, State, Translated
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import are_placeholders

_PREFIX = "timm_model."


def recognise(state: State, config: Config) -> bool:
    stated = config is not None and config.get("model_type") == "timm_wrapper"
    return stated or (bool(state) and all(name.startswith(_PREFIX) for name in state))


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """The tensors without the prefix; the rest is as the configuration states it.

    Raises:
        InputError: it states more than what a network looks like, or what it states is damaged.
    """
    ours = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    if config is None:
        return Translated(ours, None, {}, {}, "Hugging Face TimmWrapper")
    stated = Stated(config, "config.json")
    args, described = _mapping(stated, "model_args"), _mapping(stated, "pretrained_cfg")
    require_architecture_args(args, "config.json: model_args")
    described = descriptive(described)
    if not any(name.startswith(("head.", "classifier.", "fc.")) for name in ours):
        described["num_classes"] = args["num_classes"] = 0  # TimmWrapperModel has no classifier
    elif config.get("num_classes") is not None:
        described["num_classes"] = args["num_classes"] = stated.whole("num_classes")
        described |= _class_names(config.get("label_names"), args["num_classes"])
    name = require_architecture_name(config.get("architecture"), "config.json: architecture")
    return Translated(ours, name, args, described, "Hugging Face TimmWrapper")


def _class_names(names: Any, classes: int) -> dict[str, Any]:
    """Those of the classes, and not the library's LABEL_0, LABEL_1, ..."""
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        return {}
    return {} if are_placeholders(names) else {"label_names": names}


def _mapping(stated: Stated, key: str) -> dict[str, Any]:
    value = stated.content.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{stated.name}: {key} {value!r} is no mapping of names; correct the file")
    return dict(value)
