"""Names of tensors without what wrappers put before them, and without the tensors of other things than the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

_OTHERS = re.compile(
    r".*(loss|criterion|metric|optimi[sz]er|accuracy|momentum_encoder).*|(train|val|test)_acc\w*|decoder\w*|predictor"
    r"|projector|(dino|ibot)_head|model_ema|ema_model|queue(_ptr)?|discriminator|n_averaged"
)
"""First parts of names that belong to losses, metrics, decoders and heads of self-supervised training."""
_PROJECTION = re.compile(r"(head|fc)\.(mlp|last_layer|\d+)\b.*")
"""A head that projects, of self-supervised training (DINO, MoCo-v3), and no classifier."""
_HEADS = ("head", "head_dist", "fc_norm")
_CLASSIFIERS = ("classifier", "fc", "linear", "cls_head")
"""What people call the linear layer that they put behind a backbone."""
_MAIN_SHARE = 0.8


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


def as_it_is(state: Mapping[str, Tensor]) -> Unwrapped:
    """Tensors by their names in the file."""
    return Unwrapped(dict(state), {name: name for name in state})


def unwrapped(state: Mapping[str, Tensor], is_network: Callable[[Mapping[str, Tensor]], bool]) -> Unwrapped:
    """Take off what all names begin with, and leave out what is not the network's.

    Args:
        is_network: whether names are a network's own already; then nothing more is taken off.
    """
    found = as_it_is(state)
    while len(found.state) > 1:
        if not is_network(found.state):
            _leave_out(found)
        parts = _by_first_part(found.state)
        main = max(parts, key=lambda part: len(parts[part]))
        rest = [name for part, names in parts.items() if part != main for name in names]
        if is_network(found.state) or not main or (rest and not _is_backbone(found, main, rest)):
            break
        for name in parts[main]:
            _rename(found, name, name.removeprefix(f"{main}."))
        found.prefix += f"{main}."
    _leave_out_projection(found)
    return found


def _by_first_part(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """First part -> names that begin with it; those without a dot are under the empty text."""
    parts: dict[str, list[str]] = {}
    for name in state:
        parts.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    return parts


def _leave_out(found: Unwrapped) -> None:
    parts = {name: name.partition(".")[0] for name in found.state}
    both = {"teacher", "student"} <= {*parts.values()}
    gone = [name for name, part in parts.items() if _OTHERS.fullmatch(part.lower()) or (both and part == "student")]
    if len(gone) < len(parts):
        _drop(found, gone)


def _leave_out_projection(found: Unwrapped) -> None:
    _drop(found, [name for name in found.state if _PROJECTION.fullmatch(name)])


def _drop(found: Unwrapped, names: list[str]) -> None:
    for name in names:
        del found.state[name]
        found.left_out.append(found.names.pop(name))


def _rename(found: Unwrapped, name: str, new: str) -> None:
    found.state[new], found.names[new] = found.state.pop(name), found.names.pop(name)


def _is_backbone(found: Unwrapped, main: str, rest: list[str]) -> bool:
    """Whether what does not lie under `main` is the head behind it; a classifier is then called like timm's."""
    inside = {name.partition(".")[2] for name in found.state if name.startswith(f"{main}.")}
    if len(inside) < _MAIN_SHARE * len(found.state):
        return False
    if all(name.split(".")[0] in _HEADS or _PROJECTION.fullmatch(name) for name in rest):
        return not inside & {*rest}
    part = rest[0].split(".")[0]
    if part not in _CLASSIFIERS or {*rest} - {f"{part}.weight", f"{part}.bias"} or "head.weight" in inside:
        return False
    for name in rest:
        _rename(found, name, f"head.{name.split('.')[1]}")
    found.head = found.prefix + part
    return True
