"""A checkpoint's tensors -> the timm architecture that they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from prune_realloc.checkpoints.create import create_skeleton
from prune_realloc.checkpoints.read import Checkpoint
from prune_realloc.core.errors import InputError
from prune_realloc.families.base import Family


def create_unlisted(found: Checkpoint, path: Path, name: str | None, args: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint that no family recognises, as the user or the file names it.

    Raises:
        InputError: nobody names it; the message says so of MIT's EfficientViT, which is easily taken for MSRA's.
    """
    if name is not None:
        return create_skeleton(name, args, path)
    for candidate in timm.list_models("efficientvit_[bl]*"):
        with torch.device("meta"):
            net = timm.create_model(candidate)
        if _shapes(net.state_dict()) == _shapes(found.state):
            raise InputError(
                f"ckpt {str(path)!r} is {candidate} (MIT's EfficientViT), whose sites are not supported yet"
            )
    first = ", ".join(list(found.state)[:3])
    raise InputError(f"ckpt {str(path)!r}: tensors {first}, ... are of no known layout; name it with --model")


def infer_name(family: Family, state: dict[str, Tensor], args: dict[str, Any], path: Path) -> str:
    """The one timm name that fits the tensors, with the file's name as tie-breaker.

    Raises:
        InputError: none fits, or several do and the file's name does not decide.
    """
    native = family.candidates(state)
    fitting = [name for name in native if _fits(family, name, state, args, path)]
    if not fitting:
        first, tensor = next(iter(state.items()))
        raise InputError(
            f"ckpt {str(path)!r}: no timm model has its shape ({first} {tuple(tensor.shape)}, ...); "
            "name the nearest with --model and its differences with --model-arg, such as num_heads=6"
        )
    stem = path.name.lower()
    named = [name for name in fitting if stem.startswith(name)]
    if named:
        return max(named, key=len)
    words = set(re.split(r"[^a-z0-9]+", stem))
    kin = [name for name in fitting if name.split("_")[0] in words] or fitting
    size = args.get("img_size")
    kin = [name for name in kin if native[name] == ((size, size) if isinstance(size, int) else size)] or kin
    if len(kin) == 1:
        return kin[0]
    raise InputError(f"ckpt {str(path)!r} fits {len(kin)} timm models: {', '.join(kin)}; choose one with --model")


def _fits(family: Family, name: str, state: dict[str, Tensor], args: dict[str, Any], path: Path) -> bool:
    with torch.device("meta"):
        net = create_skeleton(name, args, path)
    try:
        renamed = family.to_timm_keys(dict(state), net)
    except RuntimeError:
        return False  # its token layout is another, so the position embedding cannot be read
    return _shapes(net.state_dict()) == _shapes(renamed)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
