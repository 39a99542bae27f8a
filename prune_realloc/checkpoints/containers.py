"""Where in a checkpoint file the weights lie: which of its dictionaries of tensors, averaged or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.methods import NETWORKS, STUDENT, TEACHER
from prune_realloc.core.errors import InputError

_PLAIN = ("state_dict", "model", "model_state_dict", "module", "net", "network", "weights", "params")
_BODIES, _HEADS = ("backbone", "encoder", "trunk", "body"), ("head", "classifier", "fc")
"""Dictionaries that are one network together."""
_AVERAGED = re.compile(r"(.*_)?(ema|swa|avg|averaged?)(_.*)?")
_COUNT = "n_averaged"
"""What torch's AveragedModel keeps beside the averages."""
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

Place = tuple[str, ...]
Sets = dict[Place, dict[str, Tensor]]


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
    """The places of other tensors in the file."""


def select_weights(content: Mapping[str, Any], path: Path, ema: bool | None) -> Weights:
    """The weights of a checkpoint's content.

    Args:
        ema: take the averaged ones, or the others. None: as the script does that wrote the file: timm's takes
            `state_dict_ema`, all others the weights that were trained (DeiT evaluates `model`, not `model_ema`).

    Raises:
        InputError: there are none, none of this kind, or several and nothing says which.
    """
    found = _joined(dict(_sets(content, (), set())))
    most = max(map(len, found.values()), default=0)
    sets = {place: state for place, state in found.items() if len(state) >= _LEAST_SHARE * most}
    if not sets:
        raise InputError(f"ckpt {str(path)!r} holds no tensors; {_keys(content)}")
    averaged = {place: state for place, state in sets.items() if _is_averaged(place, state)}
    plain = {place: state for place, state in sets.items() if place not in averaged}
    if ema and not averaged:
        raise InputError(f"ema: {str(path)!r} holds no averaged weights; {_keys(content)}")
    if ema is False and not plain:
        raise InputError(f"no-ema: {str(path)!r} holds averaged weights only; {_keys(content)}")
    by_default = not plain or any(_BY_TIMM in place for place in averaged)
    wanted = averaged if (by_default if ema is None else ema) else plain
    place = _preferred(wanted, path)
    others = tuple(_dotted(other) for other in found if other != place)
    return Weights(wanted[place], _dotted(place), place in averaged, others)


def _sets(content: Mapping[Any, Any], place: Place, seen: set[int]) -> Iterator[tuple[Place, dict[str, Tensor]]]:
    """All dictionaries with tensors, outer ones first; each once, wherever it is named again."""
    seen.add(id(content))
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if not isinstance(value, Mapping) or id(value) in seen or len(place) == _DEPTH:
            continue
        if not _NO_WEIGHTS.fullmatch(str(key).lower()):
            yield from _sets(value, (*place, str(key)), seen)


def _joined(sets: Sets) -> Sets:
    """A body and the head beside it as one set, named by their keys."""
    found: Sets = {}
    for place, state in sets.items():
        around, last = place[:-1], place[-1:]
        heads = {name: sets[(*around, name)] for name in _HEADS if (*around, name) in sets}
        if last and last[0] in _BODIES and heads:
            found[around] = {f"{last[0]}.{name}": tensor for name, tensor in state.items()}
            found[around] |= {f"{key}.{name}": tensor for key, head in heads.items() for name, tensor in head.items()}
        elif not (last and last[0] in _HEADS and any((*around, body) in sets for body in _BODIES)):
            found[place] = state
    return found


def _is_averaged(place: Place, state: Mapping[str, Tensor]) -> bool:
    return _COUNT in state or any(_AVERAGED.fullmatch(key.lower()) for key in place)


def _preferred(sets: Sets, path: Path) -> Place:
    """The one that is evaluated: by the names that training scripts use, level by level, else the only one."""
    left, depth = [*sets], 0
    while len(left) > 1 and all(len(place) > depth for place in left):
        keys = list(dict.fromkeys(place[depth] for place in left))
        if {TEACHER, STUDENT} <= {*keys}:
            _require_teacher(sets, left, depth, path)
        chosen = next((key for key in (*_PLAIN, *NETWORKS) if key in keys), None)
        if chosen is None and len(keys) > 1:
            break
        left = [place for place in left if place[depth] == (chosen or keys[0])]
        depth += 1
    shortest = min(left, key=len)
    if len(left) == 1 or len(shortest) == depth:
        return shortest
    found = ", ".join(f"{_dotted(place)!r} ({len(sets[place])} tensors)" for place in left)
    raise InputError(f"ckpt {str(path)!r} holds several networks: {found}; save the one that you mean by itself")


def _require_teacher(sets: Sets, left: list[Place], depth: int, path: Path) -> None:
    """Of self-supervised training the teacher is evaluated, of supervised distillation the student.

    Raises:
        InputError: the teacher has a classifier, so that it may be either.
    """
    if any(classifies(sets[place]) for place in left if place[depth] == TEACHER):
        raise InputError(
            f"ckpt {str(path)!r} holds a teacher and a student, and both may be meant; save the one that you mean by "
            "itself"
        )


def classifies(state: Mapping[str, Tensor]) -> bool:
    """Whether a network has a linear classifier, and no head that projects."""
    return any(re.fullmatch(r"(.*\.)?(head|classifier|fc)\.weight", name) for name in state)


def _keys(content: Mapping[Any, Any]) -> str:
    """What a file holds instead."""
    shown = [repr(str(key)) for key in content][:8]
    more = f", ... ({len(content)} in all)" if len(content) > len(shown) else ""
    return f"its keys are {', '.join(shown)}{more}" if shown else "it is an empty dictionary"


def _dotted(place: Place) -> str:
    return ".".join(place)
