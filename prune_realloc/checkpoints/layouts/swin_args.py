"""timm's name and arguments of a SwinTransformer, read off tensors that have timm's names already."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.layouts.translated import State, count_blocks, require_shape
from prune_realloc.checkpoints.layouts.vit_args import mlp_ratio
from prune_realloc.core.errors import InputError
from prune_realloc.families.swin_files import window_side

_SIZES = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
"""First width, and blocks of the third stage."""


def later_downsample(state: State) -> dict[str, Tensor]:
    """Others merge patches at the end of a stage, timm at the start of the next."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", name): tensor
        for name, tensor in state.items()
    }


def swin_args(state: State, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """All that builds the network; its heads and windows are in the tables of positions.

    Raises:
        InputError: tensors are missing, or the windows are not square.
    """
    width, channels, patch, _ = require_shape(state, "patch_embed.proj.weight", 4)
    stages = range(count_blocks(state, "layers"))
    tables = [require_shape(state, f"layers.{stage}.blocks.0.attn.relative_position_bias_table", 2) for stage in stages]
    if not tables:
        raise InputError("weights: layers.0.blocks.0 is missing, the file is not whole; save it again")
    window = _window(tables[0][0])
    return {
        "img_size": list(image_size or (224, 224)),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": require_shape(state, "head.fc.weight", 2)[0] if "head.fc.weight" in state else 0,
        "embed_dim": width,
        "depths": [count_blocks(state, rf"layers\.{stage}\.blocks") for stage in stages],
        "num_heads": [heads for _, heads in tables],
        "window_size": window,
        "mlp_ratio": mlp_ratio(width, require_shape(state, "layers.0.blocks.0.mlp.fc1.weight", 2)[0]),
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }


def swin_name(args: dict[str, Any]) -> str:
    depths = args["depths"]
    size = _SIZES.get((args["embed_dim"], depths[2] if len(depths) == 4 else 0), "tiny")
    window = 12 if args["window_size"] == 12 and size in ("base", "large") else 7
    return f"swin_{size}_patch4_window{window}_{384 if window == 12 else 224}"


def _window(rows: int) -> int:
    side = window_side(rows)
    if not side:
        raise InputError(f"weights: a table of {rows} positions is of no square window; timm's name is not known")
    return side
