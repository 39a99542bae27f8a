"""A checkpoint's tensors -> the timm architecture that they fit, or the nearest one and what differs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from prune_realloc.checkpoints.fitting import built, fits, nearest
from prune_realloc.checkpoints.index import indexed, likeness
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.families.base import Family

_SHOWN = 5
_ALIKE = 0.2
"""Share of names in common below which a network is of no known layout."""


@dataclass(frozen=True)
class Recognised:
    """A timm name, and what speaks for it."""

    name: str
    origin: str
    """What told it, and where others fit too, in what they differ."""
    guessed: bool
    """Others fit too, and nothing in the file tells which it is."""


def recognise(family: Family, state: dict[str, Tensor], args: dict[str, Any], path: Path) -> Recognised | None:
    """The timm name that fits the tensors of a family's network; where several do, the file's name is a guess.

    Returns:
        None: the tensors have other names than the family's networks, so that they are perhaps another's.

    Raises:
        InputError: none fits, or several do and the file's name does not decide.
    """
    native = family.candidates(state)
    fitting = {name: net for name, net in built(native, args).items() if fits(family, net, state)}
    if not fitting:
        _, kin = indexed(state)
        own = [name for module in family.TIMM_MODULES for name in timm.list_models(module=module)]
        if kin and not {*kin} & {*own}:
            return None
        raise InputError(f"ckpt {str(path)!r}: {nearest(state, built(native or own, args))}")
    if len(fitting) == 1:
        return Recognised(next(iter(fitting)), "shapes", guessed=False)
    kin = [name for name in fitting if path.name.lower().startswith(name)]
    kin = [max(kin, key=len)] if kin else _akin(fitting, path, native, args.get("img_size"))
    if len(kin) == 1:
        others = _differences(fitting, kin[0])
        return Recognised(kin[0], f"the file's name{f'; {others}' if others else ''}", guessed=True)
    listed = _differences({name: fitting[name] for name in kin}, kin[0])
    if not listed:
        return Recognised(kin[0], f"shapes; equal to {', '.join(kin[1:])}", guessed=True)
    raise InputError(
        f"ckpt {str(path)!r} fits {len(kin)} timm models: {', '.join(kin)}; {listed}; choose one with --model"
    )


def recognise_unlisted(state: Mapping[str, Tensor], args: dict[str, Any], path: Path) -> Recognised:
    """The timm name of a network that no family recognises, from its tensors' names and shapes, and the file's name.

    Raises:
        InputError: none fits, or several do; the message names the nearest and the tensors that differ.
    """
    same, kin = indexed(state)
    fitting = {name: net for name, net in built(same, args, state).items() if fits(None, net, state)}
    if not fitting and kin:
        raise InputError(f"ckpt {str(path)!r}: {nearest(state, built(kin, args, state))}")
    if not fitting:
        raise InputError(f"ckpt {str(path)!r}: {_of_no_layout(state)}")
    named = [name for name in fitting if path.name.lower().startswith(name)]
    chosen = max(named, key=len) if named else next(iter(fitting))
    listed = _differences(fitting, chosen)
    if listed and not named:
        names = ", ".join(fitting)
        raise InputError(
            f"ckpt {str(path)!r} fits {len(fitting)} timm models: {names}; {listed}; choose one with --model"
        )
    origin = f"the file's name; {listed}" if listed else "shapes"
    return Recognised(chosen, origin, guessed=bool(listed))


def _of_no_layout(state: Mapping[str, Tensor]) -> str:
    """In words: what is there, and the network of timm with the most names in common, where some are."""
    first = ", ".join([*state][:3])
    alike = likeness(state)
    best = max(alike, key=lambda name: alike[name])
    hint = f"; the names are nearest to {best}'s, {alike[best]:.0%} of them in common" if alike[best] > _ALIKE else ""
    return f"tensors {first}, ... are of no known layout{hint}; name it with --model"


def _akin(fitting: Mapping[str, Any], path: Path, native: Mapping[str, Any], size: Any) -> list[str]:
    """Those whose first word is in the file's name; of them those that are made for images of this size."""
    words = {*re.split(r"[^a-z0-9]+", path.name.lower())}
    kin = [name for name in fitting if name.split("_")[0] in words] or [*fitting]
    return [name for name in kin if native[name] == ((size, size) if isinstance(size, int) else size)] or kin


def _differences(fitting: Mapping[str, Any], chosen: str) -> str:
    """In what the others differ from the chosen one, in words; empty where in nothing that counts."""
    listed = []
    for name, net in fitting.items():
        fields = [key for key in PREPROCESSING if _config(net).get(key) != _config(fitting[chosen]).get(key)]
        said = [f"{key} {_short(_config(net).get(key))}" for key in fields]
        if _inside(net) != _inside(fitting[chosen]):
            said.append("other layers")
        if said and name != chosen:
            listed.append(f"{name} has {', '.join(said)}")
    if not listed:
        return ""
    more = f"; {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    own = ", ".join(f"{key} {_short(_config(fitting[chosen]).get(key))}" for key in ("mean", "std"))
    return f"{chosen} has {own}; {'; '.join(listed[:_SHOWN])}{more}"


def _inside(net: nn.Module) -> str:
    """What a network computes with, as far as it is printed: activations, epsilons, heads, pooling."""
    heads = [getattr(module, "num_heads", None) for module in net.modules()]
    return f"{net} {heads} {getattr(net, 'global_pool', None)}"


def _config(net: Any) -> Mapping[str, Any]:
    return net.pretrained_cfg


def _short(value: Any) -> str:
    """(0.5, 0.5, 0.5) as 0.5."""
    if isinstance(value, tuple | list):
        return "/".join(map(str, value[:1] if len({*value}) == 1 else value))
    return str(value)
