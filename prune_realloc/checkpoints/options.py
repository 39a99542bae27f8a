"""What a training script notes beside the weights: the network's name and arguments, its classes, its preprocessing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from timm.models import is_model

from prune_realloc.checkpoints.allowed import require_architecture_args
from prune_realloc.checkpoints.measures import scaled
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.data.measures import measure

_BAGS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "options", "model_args", "meta", "dataset_meta")
"""Where scripts keep their options: timm and DeiT, Lightning, mmengine, and what people call them."""
_NAMES = ("arch", "model", "model_name", "architecture", "arch_name", "backbone", "backbone_name", "timm_model")
_CLASSES = ("class_names", "classes", "label_names", "labels", "class_to_idx", "label2id", "id2label", "idx_to_class")
_PARTS = ("model", "net", "network", "backbone", "encoder", "student", "model_config", "model_cfg", "vit")
"""Parts of the options that are of the network; a decoder, a teacher and others are not."""
_OF_DATA = ("data", "dataset", "data_preprocessor", "preprocessing", "preprocess", "transform", "transforms")
"""Parts of the options that are of the images."""
_DEPTH = 3
_MOST_NAMES = 100_000


@dataclass
class Stated:
    """What was found, each with the key that states it."""

    name: str | None = None
    """timm's name of the network."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments for `timm.create_model`, which timm's script notes as such."""
    hints: dict[str, Any] = field(default_factory=dict)
    """Options of other scripts that say what such an argument is: heads, pooling, a rectangular input size."""
    squares: dict[str, int] = field(default_factory=dict)
    """Key -> side of a square input size; of most networks the tensors' shapes tell more."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """Fields of timm's `pretrained_cfg`."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels."""
    origins: dict[str, str] = field(default_factory=dict)
    """What -> the key: `name`, `class_names`, and the names of arguments and fields."""
    contradictions: list[str] = field(default_factory=list)
    """What is stated twice and otherwise, and therefore not taken."""


def stated(content: Mapping[str, Any], where: str) -> Stated:
    """What the options in a checkpoint's content say.

    Args:
        where: the file, for messages.

    Raises:
        InputError: they say more than what a network looks like.
    """
    found = Stated()
    for place, key, value in _options(content):
        of_data = any(part.lower() in _OF_DATA for part in place.split("."))
        _take(found, f"{place}{key}", key.lower(), value, where, of_data)
    for said in found.contradictions:
        found.hints.pop(said.split(" ")[0], None)
    found.preprocessing, large = scaled(found.preprocessing)
    found.origins |= {key: f"{found.origins[key]}, divided by 255" for key in large}
    return found


def _options(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(place, key, value) of every option; those of the file itself count before those of its bags."""
    top = ("model_kwargs", *_NAMES, *_CLASSES)
    yield from (("", key, content[key]) for key in content if key in top)
    for bag in _BAGS:
        if isinstance(options := _mapping(content.get(bag)), Mapping):
            yield from _flat(options, f"{bag}.", _DEPTH)


def _flat(options: Mapping[Any, Any], place: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    for key, value in options.items():
        yield place, str(key), value
        inner = _mapping(value)
        if isinstance(inner, Mapping) and depth and str(key).lower() in (*_PARTS, *_OF_DATA):
            yield from _flat(inner, f"{place}{key}.", depth - 1)


def _mapping(value: Any) -> Any:
    return vars(value) if isinstance(value, argparse.Namespace) else value


def _take(found: Stated, place: str, key: str, value: Any, where: str, of_data: bool) -> None:
    """One option into what it states, unless another stated it before.

    Args:
        of_data: it stands among what is said of the images, and says nothing of the network.
    """
    if key in PREPROCESSING and key not in found.preprocessing and (read := measure(key, value)) is not None:
        found.preprocessing[key], found.origins[key] = read, place
    elif key in _CLASSES and not found.class_names and (names := class_names(value)):
        found.class_names, found.origins["class_names"] = names, place
    elif not of_data:
        _take_of_network(found, place, key, value, where)


def _take_of_network(found: Stated, place: str, key: str, value: Any, where: str) -> None:
    if key in _NAMES and isinstance(value, str) and is_model(value.removeprefix("timm/").split(".")[0]):
        # names of other libraries stand there too; these are not timm's, and tell nothing
        if found.name is None:
            found.name, found.origins["name"] = value.removeprefix("timm/"), place
    elif key == "model_kwargs" and isinstance(value, Mapping):
        require_architecture_args(value, f"{where}: {place}")
        found.model_args = dict(value) | found.model_args
        found.origins |= dict.fromkeys(value, place)
    elif key in _SIZES and (side := _square(value)) is not None:
        found.squares[place] = side
    elif key in _ARGUMENTS:
        argument, reading = _ARGUMENTS[key]
        if (read := reading(value)) is None or argument in found.model_args:
            return
        if argument in found.hints and found.hints[argument] != read:
            found.contradictions.append(
                f"{argument} is {found.hints[argument]} ({found.origins[argument]}) and {read} ({place})"
            )
        elif argument not in found.hints:
            found.hints[argument], found.origins[argument] = read, place


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _rectangle(value: Any) -> tuple[int, int] | None:
    """(height, width), or (channels, height, width), where they differ: of a square the tensors' shapes tell more."""
    if isinstance(value, list | tuple) and len(value) in (2, 3) and all(map(_whole, value)):
        height, width = value[-2:]
        return None if height == width else (height, width)
    return None


def _square(value: Any) -> int | None:
    """The side of a square, which may stand as a number."""
    sides = value[-2:] if isinstance(value, list | tuple) and len(value) in (2, 3) else (value, value)
    return _whole(sides[0]) if sides[0] == sides[1] else None


def _pooling(value: Any) -> str | None:
    """timm's word; MAE's fine-tuning says True for the average and False for the class token."""
    if isinstance(value, bool):
        return "avg" if value else "token"
    return value if value in ("token", "avg", "avgmax", "max", "map") else None


_SIZES = ("img_size", "image_size", "input_size")
_ARGUMENTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("num_heads", "heads", "n_heads", "num_attention_heads"), ("num_heads", _whole)),
    "depth": ("depth", _whole),
    "embed_dim": ("embed_dim", _whole),
    **dict.fromkeys(_SIZES, ("img_size", _rectangle)),
    **dict.fromkeys(("global_pool", "gp"), ("global_pool", _pooling)),
}
"""Option -> the argument of `timm.create_model` that it states, and how it is read; None: it states nothing."""


def class_names(value: Any) -> tuple[str, ...]:
    """Names in the order of the labels: of a list, or of a mapping between names and 0, 1, ...; else none."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= _MOST_NAMES else None
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if not isinstance(value, Mapping) or not value:
        return ()
    pairs = [(name, number) if isinstance(number, int) else (number, name) for name, number in value.items()]
    if not all(isinstance(name, str) and re.fullmatch(r"\d{1,9}", str(number)) for name, number in pairs):
        return ()
    by_number = {int(number): name for name, number in pairs}
    if sorted(by_number) != [*range(len(value))]:
        return ()
    return tuple(by_number[number] for number in range(len(value)))
