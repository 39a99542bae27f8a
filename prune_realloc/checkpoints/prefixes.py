"""Names of tensors without what wrappers put before them, and without the tensors of other things than the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from prune_realloc.checkpoints.containers import classifies
from prune_realloc.checkpoints.methods import FIRST_PARTS, PROJECTION, STUDENT, TEACHER
from prune_realloc.core.errors import InputError

_OF_TRAINING = re.compile(
    r".*(loss|criterion|metric|optimi[sz]er|accuracy).*|(train|val|test)_acc\w*|model_ema|ema_model|n_averaged"
)
"""First parts of names that belong to losses, metrics and averages."""
_OF_METHODS, _PROJECTION = re.compile(FIRST_PARTS), re.compile(rf"{PROJECTION}.*")
_HEADS = ("head", "head_dist", "fc_norm")
_CLASSIFIERS = ("classifier", "fc", "linear", "cls_head", "head")
"""What people call the linear layer that they put behind a backbone, also as a part of a sequence."""
_MAIN_SHARE = 0.8

Test = Callable[[Mapping[str, Tensor]], bool]


@dataclass
class Unwrapped:
    """Tensors by the names that the network itself gives them."""

    state: dict[str, Tensor]
    names: dict[str, str]
    """The same names -> those in the file."""
    prefix: str = ""
    """What was taken off the names."""
    left_out: list[str] = field(default_factory=list)
    """Names in the file of tensors that are not the network's."""
    head: str = ""
    """What the classifier was called, where it is taken for one by its place behind a backbone: a guess."""


def unwrapped(state: Mapping[str, Tensor], is_network: Test, is_foreign: Test, has_head: Test) -> Unwrapped:
    """Take off what all names begin with, and leave out what is not the network's.

    Args:
        is_network: whether names are those of a network of timm already; then nothing is touched any more.
        is_foreign: whether they are those of another library; what its methods need beside it tells the method, so
            only a common prefix is taken off, and what belongs to training left out.
        has_head: whether they are those of a network whose classifier is called `head`.

    Raises:
        InputError: there are a teacher and a student, and nothing tells which is meant.
    """
    found = Unwrapped(dict(state), {name: name for name in state})
    _leave_out(found, _OF_TRAINING)
    while len(found.state) > 1 and not is_network(found.state):
        if _strip_common(found):
            _leave_out(found, _OF_TRAINING)
            continue
        if is_foreign(found.state) or is_network(found.state):
            break
        _leave_student(found)
        _leave_out(found, _OF_METHODS)
        if not _strip_common(found) and not _strip_backbone(found):
            break
    if not is_foreign(found.state) and (has_head(found.state) or not is_network(found.state)):
        _leave_projection(found)
        _name_head(found)
    return found


def _by_first_part(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """First part -> names that begin with it; those without a dot are under the empty text."""
    parts: dict[str, list[str]] = {}
    for name in state:
        parts.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    return parts


def _strip_common(found: Unwrapped) -> bool:
    parts = _by_first_part(found.state)
    return len(parts) == 1 and _strip(found, next(iter(parts)))


def _strip(found: Unwrapped, part: str) -> bool:
    """Take one first part off; False where there is none."""
    if not part:
        return False
    for name in [name for name in found.state if name.startswith(f"{part}.")]:
        _rename(found, name, name.removeprefix(f"{part}."))
    found.prefix += f"{part}."
    return True


def _strip_backbone(found: Unwrapped) -> bool:
    """The first part of most names, where what has it not is the head behind them."""
    parts = _by_first_part(found.state)
    main = max(parts, key=lambda part: len(parts[part]))
    rest = [name for part, names in parts.items() if part != main for name in names]
    inside = {name.partition(".")[2] for name in parts[main]}
    if not main or len(inside) < _MAIN_SHARE * len(found.state) or inside & {*rest}:
        return False
    if not all(name.split(".")[0] in (*_HEADS, *_CLASSIFIERS) or _PROJECTION.fullmatch(name) for name in rest):
        return False
    if "head.weight" in inside and not all(name.split(".")[0] in _HEADS for name in rest):
        return False
    return _strip(found, main)


def _name_head(found: Unwrapped) -> None:
    """One linear layer under a name of a classifier, alone or in a sequence, under timm's: a guess that is said."""
    if "head.weight" in found.state:
        return
    for part in _CLASSIFIERS:
        layers = [name for name in found.state if re.fullmatch(rf"{part}(\.\d+)?\.weight", name)]
        if len(layers) != 1 or found.state[layers[0]].ndim != 2:
            continue
        layer = layers[0].removesuffix(".weight")
        others = {name for name in found.state if name.startswith(f"{part}.")} - {f"{layer}.weight", f"{layer}.bias"}
        if others:
            continue
        found.head = found.names[layers[0]].removesuffix(".weight")
        for end in ("weight", "bias"):
            if f"{layer}.{end}" in found.state:
                _rename(found, f"{layer}.{end}", f"head.{end}")
        return


def _leave_projection(found: Unwrapped) -> None:
    names = [name for name in found.state if _PROJECTION.fullmatch(name)]
    if any(".last_layer" in name for name in names):
        _drop(found, names)


def _leave_student(found: Unwrapped) -> None:
    parts = _by_first_part(found.state)
    if not {TEACHER, STUDENT} <= parts.keys():
        return
    if classifies({name: found.state[name] for name in parts[TEACHER]}):
        raise InputError(
            "weights: the file holds a teacher and a student, and both may be meant; save the one that you mean by "
            "itself"
        )
    _drop(found, parts[STUDENT])


def _leave_out(found: Unwrapped, others: re.Pattern[str]) -> None:
    gone = [name for name in found.state if others.fullmatch(name.partition(".")[0].lower())]
    if len(gone) < len(found.state):
        _drop(found, gone)


def _drop(found: Unwrapped, names: list[str]) -> None:
    for name in names:
        del found.state[name]
        found.left_out.append(found.names.pop(name))


def _rename(found: Unwrapped, name: str, new: str) -> None:
    found.state[new], found.names[new] = found.state.pop(name), found.names.pop(name)
