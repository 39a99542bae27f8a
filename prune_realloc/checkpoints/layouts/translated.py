"""What a foreign layout comes down to, and the small steps that several translations share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prune_realloc.core.errors import InputError

State = Mapping[str, Tensor]
Config = Mapping[str, Any] | None
Rules = Sequence[tuple[str, str]]
"""Pairs of a regular expression and what stands in its place, applied to a tensor's name one after the other."""


@dataclass(frozen=True)
class Translated:
    """Tensors by timm's names, and what builds the network that they are for."""

    state: dict[str, Tensor]
    architecture: str | None
    """timm's name of the network; None: what decides it (the number of heads, say) stands neither in a tensor nor in
    the configuration."""
    model_args: dict[str, Any]
    """For `timm.create_model`; plain values."""
    pretrained_cfg: dict[str, Any]
    """Preprocessing, input size and class names as far as the source states them, as timm calls them."""
    origin: str
    """The layout in words, such as `Hugging Face ViTForImageClassification`."""
    left_out: tuple[str, ...] = ()
    """Names in the file of tensors that are no part of timm's network: poolers, decoders, projections."""
    supposed: tuple[str, ...] = ()
    """Arguments and fields that nothing in the file states: what is usual for such networks."""
    notes: tuple[str, ...] = ()
    """What was supposed and not read, or what timm cannot express; a line each."""
    norm_eps: float | None = None
    """For `set_norm_eps_` in the finished network: timm's Swin and Beit take no epsilon as an argument."""


@dataclass(frozen=True)
class Layout:
    """How one source names its tensors."""

    recognise: Callable[[State, Config], bool]
    translate: Callable[[State, Config, Config], Translated]
    """From the tensors, the folder's `config.json` and its `preprocessor_config.json`."""


def set_norm_eps_(net: torch.nn.Module, epsilon: float) -> None:
    """Give every layer norm of the network this epsilon."""
    for module in net.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon


def norm_eps_of(net: torch.nn.Module) -> float | None:
    """The epsilon of its layer norms, where they have one in common."""
    found = {module.eps for module in net.modules() if isinstance(module, torch.nn.LayerNorm)}
    return found.pop() if len(found) == 1 else None


def prefix_of(state: State, suffix: str) -> str | None:
    """What stands before `suffix` in the one name that ends with it; None: no name does."""
    return next((name.removesuffix(suffix) for name in state if name == suffix or name.endswith(f".{suffix}")), None)


def split_off(state: State, unwanted: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Without the tensors whose names the regular expression matches from their start on; and their names."""
    gone = tuple(name for name in state if re.match(unwanted, name))
    return {name: tensor for name, tensor in state.items() if name not in set(gone)}, gone


def renamed(state: State, rules: Rules) -> dict[str, Tensor]:
    """The tensors under the names that the rules make.

    Raises:
        InputError: they make one name of two, of which one would be lost.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, by in rules:
            name = re.sub(pattern, by, name)
        _place_(out, name, tensor)
    return out


def _place_(out: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Raises InputError where another tensor has this place."""
    if name in out:
        raise InputError(f"weights: two tensors are {name} in timm's network; the file is damaged")
    out[name] = tensor


def fused(state: State) -> dict[str, Tensor]:
    """`attn.q`, `attn.k` and `attn.v` one below the other, as timm's `attn.qkv`.

    Raises:
        InputError: there is an `attn.qkv` beside them, or one of the three is missing.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"(.*attn)\.([qkv])\.(weight|bias)", name)
        if found is None:
            _place_(out, name, tensor)
        elif found[2] == "q":
            parts = [f"{found[1]}.{part}.{found[3]}" for part in "qkv"]
            _place_(out, f"{found[1]}.qkv.{found[3]}", stacked(state, parts))
    return out


def stacked(state: State, names: Sequence[str]) -> Tensor:
    """Tensors one below the other.

    Raises:
        InputError: one is missing, or their shapes differ in more than the first dimension.
    """
    require_there(state, names)
    parts = [state[name] for name in names]
    if any(part.ndim == 0 or part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise InputError(f"weights: {' and '.join(names)} are of shapes that do not go together; the file is damaged")
    return torch.cat(parts)


def require_there(state: State, names: Iterable[str]) -> None:
    """Raises InputError where one of several tensors that belong together is missing."""
    if missing := [name for name in names if name not in state]:
        raise InputError(f"weights: {missing[0]} is missing, the file is not whole; save it again")


def require_shape(state: State, name: str, dims: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with this number of dimensions.

    Raises:
        InputError: it is missing, or has others.
    """
    require_there(state, [name])
    shape = tuple(state[name].shape)
    if len(shape) != dims or 0 in shape:
        raise InputError(f"weights: {name} has the shape {shape}, not {dims} dimensions; the layout is not supported")
    return shape


def count_blocks(state: State, stem: str = "blocks") -> int:
    """One more than the highest number behind `stem`, a regular expression.

    Raises:
        InputError: there are not as many tensors as that.
    """
    numbers = {int(found[1]) for name in state if (found := re.match(rf"{stem}\.(\d+)\.", name))}
    if numbers and max(numbers) >= len(state):
        raise InputError(
            f"weights: a block has the number {max(numbers)}, of {len(state)} tensors; the file is damaged"
        )
    return 1 + max(numbers, default=-1)
