"""Checkpoints of timm's SwinTransformer: what their tensors tell, and the tables of positions of another window."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
import torch
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor

from prune_realloc.core.errors import InputError, first_line

TIMM_MODULES: tuple[str, ...] = ("swin_transformer",)
_TABLE = "relative_position_bias_table"
_BLOCK = re.compile(rf"layers\.(\d+)\.blocks\.(\d+)\.attn\.{_TABLE}")
_AXES = {"patch_embed.proj.weight": 4, "head.fc.weight": 2}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "patch_embed.proj.weight" in state and any(_BLOCK.fullmatch(name) for name in state)


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Patch size, channels, classes and square windows; the input size where it is known.

    Raises:
        InputError: a tensor is not of the kind that its name says.
    """
    for name, axes in (_AXES | dict.fromkeys(filter(_BLOCK.fullmatch, state), 2)).items():
        if name in state and state[name].ndim != axes:
            shape = tuple(state[name].shape)
            raise InputError(f"{name} has the shape {shape}, not one of {axes} axes; the checkpoint is damaged")
    patch = state["patch_embed.proj.weight"].shape[2:]
    args: dict[str, Any] = {
        "in_chans": state["patch_embed.proj.weight"].shape[1],
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "num_classes": state["head.fc.weight"].shape[0] if "head.fc.weight" in state else 0,
    }
    windows = [window_side(rows) for rows, _ in _tables(state)]
    if all(windows):
        args["window_size"] = [[side, side] for side in windows]
    return args if img_size is None else args | {"img_size": img_size}


def to_timm_keys(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The state dict of the original release under timm's names; tables of other windows are resized.

    Raises:
        RuntimeError: timm cannot, since tensors have other shapes than it goes by.
    """
    shapes = {name: p.shape for name, p in model.named_parameters()}
    # timm takes all tables for those of square windows, so it must not see what fits already
    untouched = {
        name: tensor
        for name, tensor in state.items()
        if name.endswith(_TABLE) and (name not in shapes or not _is_resizable(tensor, shapes[name]))
    }
    try:
        return untouched | checkpoint_filter_fn({k: t for k, t in state.items() if k not in untouched}, model)
    except (AttributeError, IndexError, ValueError, TypeError, ZeroDivisionError, AssertionError) as error:
        raise RuntimeError(f"timm stumbles over the shape of a tensor: {first_line(error)}") from error


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Those whose width, depths and heads are the tensors'; of them those with the tensors' windows, where some are."""
    width, tables = len(state["patch_embed.proj.weight"]), _tables(state)
    depths = [sum(m[1] == str(stage) for m in map(_BLOCK.fullmatch, state) if m) for stage in range(len(tables))]
    heads = [columns for _, columns in tables]
    alike = [each for each in _outlines() if each[1:4] == (width, tuple(depths), tuple(heads))]
    same = [each for each in alike if each[4] == tuple(rows for rows, _ in tables)]
    return {name: size for name, *_, size in same or alike}


def _tables(state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """(positions, heads) of the first block that each stage has."""
    first: dict[int, tuple[int, int]] = {}
    for name, tensor in state.items():
        if (found := _BLOCK.fullmatch(name)) and int(found[1]) not in first:
            first[int(found[1])] = (tensor.shape[0], tensor.shape[-1])
    return [first[stage] for stage in sorted(first)]


def window_side(rows: int) -> int:
    """Of the square window whose table has so many positions; 0 where it is none."""
    side = (round(rows**0.5) + 1) // 2
    return side if (2 * side - 1) ** 2 == rows else 0


def _is_resizable(table: Tensor, shape: torch.Size) -> bool:
    return table.ndim == 2 and table.shape[1] == shape[1] and table.shape[0] != shape[0]


@cache
def _outlines() -> tuple[tuple[str, int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]:
    """(name, width, depths, heads, positions, input size) of every timm model of this family; takes two seconds."""
    found = []
    for name in [name for module in TIMM_MODULES for name in timm.list_models(module=module)]:
        with torch.device("meta"):
            net: Any = timm.create_model(name)
        first = [stage.blocks[0].attn for stage in net.layers]
        depths, heads = (tuple(each) for each in ([len(s.blocks) for s in net.layers], [a.num_heads for a in first]))
        rows = tuple(len(attn.relative_position_bias_table) for attn in first)
        found.append((name, net.embed_dim, depths, heads, rows, tuple(net.patch_embed.img_size)))
    return tuple(found)
