"""Options that open a network and images: fields of Source and Data, as functions and flags take them. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.document import Data, Recipe, Source
from prune_realloc.recipe.fields import Part, unknown
from prune_realloc.recipe.messages import dotted_location, problem_text
from prune_realloc.recipe.reader import build_recipe

SOURCE_OPTIONS = ("model", "ckpt", "pretrained", "ema", "img_size", "model_args")
"""Fields of `Source` that say how the network is opened; `plan` and `apply` write the others."""
_OF_ANOTHER_CHECKPOINT = ("pretrained", "ema")
_OF_OTHER_IMAGES = ("data_dir", "labels", "class_map", "class_order", "preprocess")
AnyPart = TypeVar("AnyPart", bound=Part)


def checked_part(part: type[AnyPart], values: Mapping[str, Any]) -> AnyPart:
    """A part of a recipe from options; None and what is missing are left at their defaults.

    Raises:
        InputError: a value is wrong; the message names its option.
    """
    given = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value
        for key, value in values.items()
        if value is not None
    }
    try:
        return part.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = problem_text(first)
        separator = " " if text.startswith("must") else ": "
        raise InputError(f"{dotted_location(first['loc'])}{separator}{text}") from error


def read_options(
    model: str | Source | None,
    data: str | Path | Data | None,
    options: Mapping[str, Any],
    data_defaults: Mapping[str, Any] | None = None,
) -> tuple[Source, Data]:
    """What a function's keyword arguments say of the network and the images.

    Args:
        model, data: `Source.model` and `Data.name`; or all of the source, all of the data.
        options: the other fields of `Source` and `Data` by name.
        data_defaults: what holds for fields of the data that are not given, where it is not their own default.

    Raises:
        InputError: a name is unknown, or a value is wrong.
    """
    of_source = [name for name in SOURCE_OPTIONS if name != "model"]
    of_data = [name for name in Data.model_fields if name != "name"]
    for name in options:
        if name not in (*of_source, *of_data):
            raise InputError(unknown("option", name, (*of_source, *of_data)))
    source = _part_of(Source, "model", model, {key: options[key] for key in of_source if key in options})
    found = _part_of(Data, "name", data, {key: options[key] for key in of_data if key in options})
    missing = {key: value for key, value in (data_defaults or {}).items() if key not in found.model_fields_set}
    return source, found.model_copy(update=missing)


def _part_of(part: type[AnyPart], name: str, value: Any, options: Mapping[str, Any]) -> AnyPart:
    if not isinstance(value, part):
        return checked_part(part, {name: value, **options})
    for option in options:
        raise InputError(f"{option}: is given beside a {part.__name__}; set it there")
    return value


def with_overrides(
    recipe: Recipe, source: Mapping[str, Any], data: Mapping[str, Any], compensate: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe with other values of its source, data and compensation.

    Args:
        source, data, compensate: the values that change. With another checkpoint, or other images, what the recipe
            says of its own no longer holds.

    Raises:
        InputError: a value is wrong.
    """
    values = recipe.model_dump(exclude_none=True)
    if "axes" not in recipe.model_fields_set:  # what may be cut then depends on the network
        del values["axes"]
    if "ckpt" in source:
        _forget(values["source"], _OF_ANOTHER_CHECKPOINT)
    if "name" in data:
        _forget(values["data"], _OF_OTHER_IMAGES)
    values["source"] |= source
    values["data"] |= data
    values["compensate"] |= compensate or {}
    return build_recipe(values)


def _forget(values: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        values.pop(name, None)
