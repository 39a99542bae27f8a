"""Where in a checkpoint file the weights lie: which of its dictionaries of tensors, averaged or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_realloc.core.errors import InputError

_PLAIN = ("state_dict", "model", "model_state_dict", "module", "net", "network", "weights", "params")
_TAUGHT = ("teacher", "base_encoder", "student", "momentum_encoder")
"""The networks of self-supervised training, the one that is evaluated first (DINO, iBOT, MoCo-v3)."""
_AVERAGED = re.compile(r"ema|.*_ema|ema_.*|averaged?_.*|swa_.*")
_BY_TIMM = "state_dict_ema"
"""Where timm's training script keeps averaged weights, which are the ones that it evaluates and loads."""
_NO_WEIGHTS = re.compile(
    r".*(optim|sched|scaler|loss|criterion|metric|rng|callback|loops|queue|discriminator).*"
    r"|args|opt|cfg|config|meta|hparams|hyper_parameters|amp"
)
"""Entries with tensors that are no network's: optimisers, losses, random states, options."""
_DEPTH = 5
"""Dictionaries inside dictionaries that are looked into."""
_LEAST_SHARE = 0.1
"""A dictionary with fewer tensors than this share of the largest one's is no network beside it."""


@dataclass(frozen=True)
class Weights:
    """One set of weights of a file."""

    state: dict[str, Tensor]
    """Its tensors, by their names in the file."""
    place: str
    """The keys that lead to it, `model.state_dict`; empty: the file itself."""
    averaged: bool
    """Whether the file calls them averaged over training (EMA)."""
    others: tuple[str, ...]
    """The places of other weights in the file."""


def select_weights(content: Mapping[str, Any], path: Path, ema: bool | None) -> Weights:
    """The weights of a checkpoint's content.

    Args:
        ema: take the averaged ones, or the others. None: as the script does that wrote the file: timm's takes
            `state_dict_ema`, all others the weights that were trained (DeiT evaluates `model`, not `model_ema`).

    Raises:
        InputError: there are none, none of this kind, or several and nothing says which.
    """
    sets = _large(dict(_sets(content, ())))
    if not sets:
        raise InputError(f"ckpt {str(path)!r} holds no tensors; {_keys(content)}")
    averaged = {place: state for place, state in sets.items() if any(_AVERAGED.fullmatch(key) for key in place)}
    plain = {place: state for place, state in sets.items() if place not in averaged}
    if ema and not averaged:
        raise InputError(f"ema: {str(path)!r} holds no averaged weights; {_keys(content)}")
    if ema is False and not plain:
        raise InputError(f"no-ema: {str(path)!r} holds averaged weights only; {_keys(content)}")
    by_default = not plain or any(_BY_TIMM in place for place in averaged)
    wanted = averaged if (by_default if ema is None else ema) else plain
    place = _first(wanted, path)
    others = tuple(_dotted(other) for other in sets if other != place)
    return Weights(wanted[place], _dotted(place), place in averaged, others)


def _sets(content: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """All dictionaries with tensors, outer ones first."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and len(place) < _DEPTH and not _NO_WEIGHTS.fullmatch(str(key).lower()):
            yield from _sets(value, (*place, str(key)))


def _large(sets: dict[tuple[str, ...], dict[str, Tensor]]) -> dict[tuple[str, ...], dict[str, Tensor]]:
    most = max(map(len, sets.values()), default=0)
    return {place: state for place, state in sets.items() if len(state) >= _LEAST_SHARE * most}


def _first(sets: Mapping[tuple[str, ...], dict[str, Tensor]], path: Path) -> tuple[str, ...]:
    """The one that is evaluated: by the names that training scripts use, else the only one."""
    if () in sets:
        return ()
    for key in (*_PLAIN, *_TAUGHT):
        if named := [place for place in sets if key in place]:
            return min(named, key=len)
    if len(sets) == 1:
        return next(iter(sets))
    found = ", ".join(f"{_dotted(place)!r} ({len(state)} tensors)" for place, state in sets.items())
    raise InputError(f"ckpt {str(path)!r} holds several networks: {found}; save the one that you mean by itself")


def _keys(content: Mapping[Any, Any]) -> str:
    """What a file holds instead."""
    shown = [repr(str(key)) for key in content][:8]
    more = f", ... ({len(content)} in all)" if len(content) > len(shown) else ""
    return f"its keys are {', '.join(shown)}{more}" if shown else "it is an empty dictionary"


def _dotted(place: tuple[str, ...]) -> str:
    return ".".join(place)
