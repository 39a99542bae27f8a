"""What a network wants to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.core.taken import Fact, Taken, fact_name
from prune_realloc.data.measures import BOUNDS, CHOICES, measure

CHANNEL_MODE = {1: "L", 3: "RGB"}
_TIMMS = "timm's "
_DEFAULT = f"{_TIMMS}default"


@dataclass(frozen=True)
class Preprocessing:
    """What the network wants to see; the fields are timm's."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"


def preprocessing_taken(model: nn.Module, prepare: Preprocessing, overrides: Mapping[str, Any]) -> Taken:
    """The fields of `prepare`, each with where it is from; `model` and `overrides` as in `preprocessing`."""
    stated = getattr(model, "pretrained_cfg", None) or {}
    known: Taken = getattr(model, "taken", {})
    found = {}
    for field in PREPROCESSING:
        name = fact_name(field)
        value = getattr(prepare, field)
        plain = [round(number, 4) for number in value] if isinstance(value, tuple) else value
        if overrides.get(field) is not None:
            found[name] = Fact(plain, f"--{field.replace('_', '-')}")
        elif name in known:
            found[name] = Fact(plain, known[name].origin, known[name].guessed)
        elif stated.get(field) is not None:
            found[name] = Fact(plain, "the network's configuration")
        else:
            found[name] = Fact(plain, _DEFAULT, guessed=True)
    return found


def guessed_note(prepared: Taken) -> list[str]:
    """What to say where a network does not tell how images are prepared for it.

    Args:
        prepared: what `preprocessing_taken` found.
    """
    values = [f"{name} {fact.text()}" for name, fact in prepared.items() if fact.origin == _DEFAULT]
    if not values:
        return []
    return [
        f"the network does not tell how images are prepared for it: {', '.join(values)} are a guess from {_DEFAULT}; "
        "state them, with preprocess= or --mean, --std, --interpolation and --crop-pct"
    ]


def foreign_crop_note(prepared: Taken, input_size: tuple[int, int, int]) -> list[str]:
    """What to say where the crop is that of a network in timm which takes images of another size.

    Args:
        prepared: what `preprocessing_taken` found.
        input_size: (C, H, W) of the images.
    """
    crop = prepared["crop"]
    name = crop.origin.removeprefix(_TIMMS)
    native = get_pretrained_cfg(name) if name != crop.origin and is_model(name) else None
    if native is None:
        return []
    own, here = (tuple(size[-2:]) for size in (native.input_size, input_size))
    if own == here or crop.value == 1:
        return []
    sizes = " and ".join(f"{height} x {width}" for height, width in (own, here))
    return [f"crop {crop.text()} is of timm's {name}; its images and yours are {sizes}: state yours with --crop-pct"]


def preprocessing(model: nn.Module, input_size: tuple[int, int, int], overrides: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of `model`'s own data configuration, with `overrides` on top.

    Args:
        input_size: (C, H, W) of the network as it is now.
        overrides: any of `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`; None values do not count.
    """
    # of an empty configuration timm makes an error, of one without these fields its defaults
    known = getattr(model, "pretrained_cfg", None) or {"architecture": None}
    config = resolve_data_config({}, pretrained_cfg=known)
    given = {key: value for key, value in overrides.items() if value is not None}
    values: dict[str, Any] = {key: given.get(key, config[key]) for key in ("mean", "std")}
    channels = input_size[0]
    if channels not in CHANNEL_MODE:
        raise InputError(f"the model takes {channels} channels; images have 1 or 3")
    for key, value in values.items():
        numbers = _numbers(key, value)
        if len(numbers) not in (1, channels) and key in given:
            raise InputError(f"{key} has {len(numbers)} values where the model takes {channels} channels")
        # a network made for colour and given gray images gets the mean over its channels
        values[key] = numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels
    for key in ("interpolation", "crop_pct", "crop_mode"):
        values[key] = given.get(key, config[key])
    _check_way(values)
    return Preprocessing(input_size=input_size, **values)


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    """Mean or std, which may stand in a file.

    Raises:
        InputError: it is no list of numbers within bounds.
    """
    if (found := measure(key, value)) is None:
        raise InputError(f"{key} {value!r} is not one number{_bounds(key)} for each channel; give others with --{key}")
    return tuple(found)


def _check_way(values: Mapping[str, Any]) -> None:
    """Raises InputError where images cannot be resized and cropped in such a way."""
    share = values["crop_pct"]
    if measure("crop_pct", share) is None:
        raise InputError(
            f"crop_pct {share!r} is no share of the image{_bounds('crop_pct')}, such as 0.875; give another with "
            "--crop-pct"
        )
    for key, known in CHOICES.items():
        if measure(key, values[key]) is None:
            raise InputError(f"{key} {values[key]!r} is unknown; choose one of {', '.join(known)}")


def _bounds(key: str) -> str:
    least, most = BOUNDS[key]
    return f" from {least:g} to {most:g}"
