"""A checkpoint's tensors into the network that they are for: all of them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_realloc.checkpoints.found import Checkpoint
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.families import FAMILIES

_OF_PUBLISHED = ("license", "tag")


def fill_(net: Any, found: Checkpoint, path: Path) -> nn.Module:
    """Load the weights and the preprocessing of a checkpoint.

    Raises:
        InputError: a tensor has another shape, is missing, or has no place in the network.
    """
    name = net.pretrained_cfg.get("architecture", type(net).__name__)
    where = f"ckpt {str(path)!r} does not fit model {name}"
    state = _renamed(net, found.state, where)
    _require_fit(net, state, where)
    _require_floats(net, state, where)
    net.load_state_dict(state)
    if found.pretrained_cfg:
        net.pretrained_cfg = dict(net.pretrained_cfg) | found.pretrained_cfg | {"architecture": name}
    return net


def forget_published_(net: Any) -> None:
    """Drop what timm says of the weights that it publishes under the network's name: a file's may be anybody's."""
    net.pretrained_cfg = {key: value for key, value in net.pretrained_cfg.items() if key not in _OF_PUBLISHED}


def require_finite(net: nn.Module) -> None:
    """Raises InputError where a weight is NaN or infinite."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"weights: {name} has NaN or infinite entries; the checkpoint is broken")


def _renamed(net: nn.Module, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    for family in FAMILIES.values():
        if family.owns(net):
            try:
                return family.to_timm_keys(dict(state), net)
            except RuntimeError as error:
                raise InputError(f"{where}: its position embedding cannot be resized ({first_line(error)})") from error
    return state


def _require_floats(net: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Refuse tensors whose numbers are not there, or would be taken for other ones."""
    kinds = {name: tensor.is_floating_point() for name, tensor in net.state_dict().items()}
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
            raise InputError(f"{where}: {name} is {kind}; save it as a plain tensor of floats")
        if kinds[name] and not tensor.is_floating_point():
            raise InputError(
                f"{where}: {name} is of {tensor.dtype}, not of floats, so it would be misread; save it as floats"
            )


def _require_fit(net: nn.Module, state: dict[str, Tensor], where: str) -> None:
    want = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := [name for name in want if name in have and want[name] != have[name]]:
        raise InputError(
            f"{where}: {wrong[0]} is {have[wrong[0]]}, the model has {want[wrong[0]]} ({len(wrong)} differ); "
            f"{_flags(net, have, want)}choose another with --model (in a recipe source.model) or --model-arg"
        )
    missing, surplus = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    parts = [
        f"{what} {names[0]} ({len(names)} in all)"
        for what, names in (("without", missing), ("with unknown", surplus))
        if names
    ]
    if parts:
        raise InputError(
            f"{where}: it comes {' and '.join(parts)}; choose another with --model (in a recipe source.model), "
            "or name what differs with --model-arg, such as depth=2"
        )


def _flags(net: Any, have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> str:
    """What the tensors tell of a network of another width or depth, as flags; empty where they tell nothing."""
    own, depth = getattr(net, "embed_dim", None), _depth(have)
    wide = {have[name][0] for name, shape in want.items() if shape == (own,) and len(have.get(name, ())) == 1}
    flags = [f"--model-arg embed_dim={width}" for width in wide if wide != {own} and len(wide) == 1]
    if depth not in (0, _depth(want)):
        flags.append(f"--model-arg depth={depth}")
    heads = ", and --model-arg num_heads=..., which no shape tells" if wide != {own} else ""
    return f"give {' '.join(flags)}{heads}; or " if flags else ""


def _depth(names: Iterable[str]) -> int:
    """How many blocks the names of tensors count."""
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})
