"""timm's name and arguments of a VisionTransformer, read off tensors that have timm's names already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import is_model
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from prune_realloc.checkpoints.layouts.translated import State, count_blocks, require_shape
from prune_realloc.checkpoints.norms import norm_name
from prune_realloc.core.errors import InputError, first_line

_SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1152, 27): "so400m",
    (1280, 32): "huge",
    (1408, 40): "giant",
    (1536, 40): "giant",
    (1664, 48): "gigantic",
}
"""Width and depth -> what the papers call it."""
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
"""Width -> heads of the published networks."""


def published_heads(state: State) -> int | None:
    """The number of heads where the tensors have the width and depth of a published network."""
    width = require_shape(state, "patch_embed.proj.weight", 4)[0]
    return _HEADS[width] if (width, count_blocks(state)) in _SIZES else None


def vit_args(state: State, prefix_positions: int, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What the shapes tell of a network, everything but its heads, norms and pooling.

    Args:
        prefix_positions: how many tokens with a position of their own stand before those of the patches.
        image_size: (height, width) where it is stated; else the grid of positions is taken to be square.

    Raises:
        InputError: tensors are missing or of strange shapes, or the positions are not those of the size.
    """
    width, channels, *patch = require_shape(state, "patch_embed.proj.weight", 4)
    hidden = require_shape(state, "blocks.0.mlp.fc1.weight", 2)[0]
    patches = require_shape(state, "pos_embed", 3)[1] - prefix_positions
    return {
        "img_size": list(_image_size(patches, patch, image_size)),
        "patch_size": patch[0] if patch[0] == patch[1] else list(patch),
        "in_chans": channels,
        "num_classes": require_shape(state, "head.weight", 2)[0] if "head.weight" in state else 0,
        "embed_dim": width,
        "depth": count_blocks(state),
        "mlp_ratio": mlp_ratio(width, hidden),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
    }


def mlp_ratio(width: int, hidden: int) -> float:
    """The factor that gives `hidden` when timm rounds it down."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def norm_args(epsilon: float, usual: float) -> dict[str, Any]:
    """`norm_layer` where the epsilon is not that of timm's network.

    Raises:
        InputError: it has no name.
    """
    if epsilon == usual:
        return {}
    if (name := norm_name(epsilon)) is None:
        raise InputError(f"config.json: layer_norm_eps {epsilon} is no power of ten from 1e-3 to 1e-12; correct it")
    return {"norm_layer": name}


def named(args: dict[str, Any], patterns: tuple[str, ...], otherwise: str) -> str:
    """The timm name of this size, where a pattern gives one.

    Args:
        patterns: with `{size}`, `{patch}` and `{img}`; the first that is a name counts.
        otherwise: the name where none is; the arguments then say all that differs.
    """
    size = _SIZES.get((args["embed_dim"], args["depth"]), "")
    names = [one.format(size=size, patch=args["patch_size"], img=args["img_size"][0]) for one in patterns]
    return next((name for name in names if is_model(name)), otherwise)


def by_timm(state: Mapping[str, Tensor], name: str, args: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an original release under timm's names, as timm itself converts them.

    Raises:
        InputError: it cannot.
    """
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name, **args)
        return checkpoint_filter_fn(dict(state), net)
    except Exception as error:  # of constructors and of indexing, many kinds
        raise InputError(
            f"weights: timm cannot convert them for {name} ({first_line(error)}); the file is damaged"
        ) from error


def _image_size(patches: int, patch: list[int], stated: tuple[int, int] | None) -> tuple[int, int]:
    if stated is not None:
        if (stated[0] // patch[0]) * (stated[1] // patch[1]) != patches:
            raise InputError(
                f"config.json: image_size {list(stated)} does not go with pos_embed, which has {patches} patches of "
                f"{patch[0]} x {patch[1]} pixels; correct the file"
            )
        return stated
    side = round(max(patches, 0) ** 0.5)
    if side < 1 or side * side != patches:
        raise InputError(
            f"weights: pos_embed has {patches} patches, no square grid, so the image size is unknown; "
            "state image_size in config.json"
        )
    return side * patch[0], side * patch[1]
