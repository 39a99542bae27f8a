"""Training files of MAE, DINO, MoCo-v3, iBOT and DINOv2 -> the encoder as timm's VisionTransformer, without head."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from prune_realloc.checkpoints.layouts.translated import Config, State, Translated, require_shape, split_off
from prune_realloc.checkpoints.layouts.vit_args import by_timm, named, published_heads, vit_args
from prune_realloc.checkpoints.methods import ASIDE, BASE, ENCODERS, MOMENTUM, OWN_HEADS

_MEASURES: dict[str, Any] = {
    "mean": list(IMAGENET_DEFAULT_MEAN),
    "std": list(IMAGENET_DEFAULT_STD),
    "interpolation": "bicubic",
}
_SUPPOSED = "mean and std are ImageNet's, as in the method's own script"
_NARROW_MOCO = {384: 12}
"""MoCo-v3's small ViT has twice the heads of everyone else's."""


def recognise(state: State, config: Config) -> bool:
    encoder = _encoder(state)
    inside = {name.removeprefix(encoder) for name in state}
    kind = _kind(state, encoder)
    return bool(kind) and "patch_embed.proj.weight" in inside and any(name.startswith("blocks.") for name in inside)


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """The encoder; its output is the normed class token.

    Raises:
        InputError: the file is not whole, or the encoder has a stem of several convolutions.
    """
    encoder = _encoder(state)
    kind = _kind(state, encoder) or ""
    others = "|".join(re.escape(one) for one in ENCODERS if one != encoder)
    kept, gone = split_off(state, rf"({re.escape(encoder)})?({ASIDE})|{others}")
    bare = {name.removeprefix(encoder): tensor for name, tensor in kept.items()}
    if kind == "DINOv2":
        bare = _in_one_row(bare)
        args, name = _dino_args(bare)
        bare = by_timm({"mask_token": torch.empty(0), **bare}, name, args)  # by which timm knows DINOv2
    else:
        args = vit_args(bare, 1)
        name = named(args, ("vit_{size}_patch{patch}_{img}",), "vit_base_patch16_224")
    heads = published_heads(bare)
    if heads and kind == "MoCo-v3":
        heads = _NARROW_MOCO.get(args["embed_dim"], heads)
    return Translated(
        state=bare,
        architecture=name if heads else None,
        model_args=args | ({"num_heads": heads} if heads else {}),
        pretrained_cfg=_MEASURES
        | {"num_classes": args["num_classes"], "input_size": [args["in_chans"], *args["img_size"]]},
        origin=kind,
        left_out=gone,
        supposed=("num_heads", "mean", "std", "interpolation"),
        notes=(_SUPPOSED,),
    )


def _encoder(state: State) -> str:
    return next((one for one in ENCODERS if any(name.startswith(one) for name in state)), "")


def _kind(state: State, encoder: str) -> str | None:
    """The method, told from what lies beside the encoder."""
    names = {name.removeprefix(encoder) for name in state}

    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if encoder in (f"{BASE}.", f"{MOMENTUM}."):
        return "MoCo-v3"
    if has(rf"{OWN_HEADS}\b") or {"mask_token", "blocks.0.ls1.gamma"} <= names or has(r"blocks\.\d+\.\d+\."):
        return "DINOv2"
    if "masked_embed" in names or has(r"head\.last_layer2\b"):
        return "iBOT"
    if has(r"head\.(mlp|last_layer)\b"):
        return "DINO"
    return "MAE" if has(r"decoder_(embed|blocks|pred)\b") else None


def _in_one_row(state: State) -> dict[str, Tensor]:
    """DINOv2 trains in chunks of blocks, inside which a block keeps its number."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): tensor for name, tensor in state.items()}


def _dino_args(state: dict[str, Tensor]) -> tuple[dict[str, Any], str]:
    registers = require_shape(state, "register_tokens", 3)[1] if "register_tokens" in state else 0
    gated = "blocks.0.mlp.w12.weight" in state
    if gated:
        state = state | {"blocks.0.mlp.fc1.weight": state["blocks.0.mlp.w12.weight"]}
    args = vit_args(state, 1)
    kind = f"{'_reg4' if registers else ''}_dinov2"
    name = named(args, (f"vit_{{size}}_patch{{patch}}{kind}",), f"vit_{'giant' if gated else 'base'}_patch14{kind}")
    if registers:
        args |= {"reg_tokens": registers, "no_embed_class": True}
    return args, name
