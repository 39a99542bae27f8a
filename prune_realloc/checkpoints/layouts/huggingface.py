"""What all of Hugging Face's vision models state in the same way: activation, image size, class names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.layouts.preprocessing import prepared
from prune_realloc.checkpoints.layouts.stated import Stated
from prune_realloc.checkpoints.layouts.translated import Config, State
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import are_placeholders

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Hugging Face's names -> timm's."""
UNSTATED = "without config.json, the number of heads, the activation and the epsilon of the norms are those of the name"
"""The note where only tensors are there."""


def vision_config(config: Config, defaults: Mapping[str, Any]) -> Stated | None:
    """The configuration of the image tower; None: there is no configuration.

    Raises:
        InputError: it is no mapping.
    """
    if config is None:
        return None
    inner = config.get("vision_config", config)
    if not isinstance(inner, Mapping):
        raise InputError(f"config.json: vision_config {inner!r} is no mapping; correct the file")
    return Stated(inner, "config.json", defaults)


def activation(stated: Stated) -> str:
    """timm's name of `hidden_act`.

    Raises:
        InputError: timm has none.
    """
    value = stated.get("hidden_act")
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise stated.wrong("hidden_act", f"one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[value]


def activation_args(stated: Stated) -> dict[str, Any]:
    name = activation(stated)
    return {} if name == "gelu" else {"act_layer": name}


def image_size(stated: Stated) -> tuple[int, int] | None:
    """(height, width), where it is stated."""
    value = stated.get("image_size")
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else value
    whole = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not whole or not all(0 < side <= 4096 for side in sides):
        raise stated.wrong("image_size", "one size or two, of 4096 pixels at most")
    return sides[0], sides[1]


def require_width(stated: Stated, width: int, key: str = "hidden_size") -> None:
    """Raises InputError where the configuration is of another network than the tensors."""
    if stated.content.get(key) is not None and stated.whole(key) != width:
        raise stated.wrong(key, f"the width of the tensors, {width}: the file is of another network")


def described(
    config: Config, preprocessor: Config, args: Mapping[str, Any], *, classifier: bool = True
) -> dict[str, Any]:
    """What timm's `pretrained_cfg` holds: preprocessing, input size, number and names of the classes."""
    size = args.get("img_size")
    out = prepared(preprocessor) | {"num_classes": args["num_classes"]}
    if size is not None:
        out["input_size"] = [args["in_chans"], *size]
    names = _class_names(config, args["num_classes"]) if classifier and args["num_classes"] else []
    return out | ({"label_names": names} if names else {})


def bare(state: State, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the encoder, without its prefix, and those beside it."""
    if not prefix:
        return dict(state), {}
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inside, {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def titled(config: Config, otherwise: str) -> str:
    """`Hugging Face` and the class that wrote the file."""
    classes = config.get("architectures") if config is not None else None
    first = classes[0] if isinstance(classes, list) and classes else None
    return f"Hugging Face {first if isinstance(first, str) and first.isidentifier() else otherwise}"


def _class_names(config: Config, classes: int) -> list[str]:
    """`id2label` in the order of the labels; empty where it is the library's LABEL_0, LABEL_1, ...

    Raises:
        InputError: it is of another number of classes than the classifier.
    """
    table = config.get("id2label") if config is not None else None
    if not isinstance(table, Mapping):
        return []
    try:
        names = {int(label): name for label, name in table.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"config.json: id2label has a label that is no number ({error}); correct the file") from error
    if sorted(names) != list(range(classes)) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(
            f"config.json: id2label names {len(names)} classes, the classifier has {classes}; "
            f"give a name to each label from 0 to {classes - 1}"
        )
    ordered = [str(names[label]) for label in range(classes)]
    return [] if are_placeholders(ordered) else ordered
