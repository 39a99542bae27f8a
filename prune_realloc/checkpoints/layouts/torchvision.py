"""torchvision's `vit_*` and `swin_t`, `swin_s`, `swin_b` -> timm's VisionTransformer and SwinTransformer."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from prune_realloc.checkpoints.layouts.swin_args import later_downsample, swin_args, swin_name
from prune_realloc.checkpoints.layouts.translated import Config, Rules, State, Translated, renamed, split_off
from prune_realloc.checkpoints.layouts.vit_args import named, published_heads, vit_args

_VIT_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    # before torchvision 0.12 the layers of an MLP had names
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
)
_SWIN_RULES: Rules = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    *((rf"^features\.{2 * stage + 1}\.", f"layers.{stage}.blocks.") for stage in range(4)),
    *((rf"^features\.{2 * stage + 2}\.", f"layers.{stage}.downsample.") for stage in range(3)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
_PUBLISHED = (768, 1024, 1280)
"""Widths that torchvision has weights of; of others nobody knows the heads."""
_MEASURES: dict[str, Any] = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
_SUPPOSED = "mean and std are ImageNet's, as of all weights of torchvision; the interpolation is not known"


def recognise_vit(state: State, config: Config) -> bool:
    return "conv_proj.weight" in state and "encoder.pos_embedding" in state


def translate_vit(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs; the heads are in no tensor, so they are known of published sizes only.

    Raises:
        InputError: the file is not whole, or has a stem of several convolutions.
    """
    ours = renamed(state, _VIT_RULES)
    args = vit_args(ours, 1)
    heads = published_heads(ours) if args["embed_dim"] in _PUBLISHED else None
    name = named(args, ("vit_{size}_patch{patch}_{img}",), "vit_base_patch16_224")
    return Translated(
        state=ours,
        architecture=name if heads else None,
        model_args=args | ({"num_heads": heads} if heads else {}),
        pretrained_cfg=_described(args),
        origin="torchvision VisionTransformer",
        supposed=("num_heads", "mean", "std"),
        notes=(_SUPPOSED,),
    )


def recognise_swin(state: State, config: Config) -> bool:
    return "features.0.0.weight" in state and "features.1.0.attn.relative_position_bias_table" in state


def translate_swin(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs, for images of 224 x 224 pixels.

    Raises:
        InputError: the file is not whole.
    """
    kept, gone = split_off(state, r".*\.relative_position_index$")
    ours = later_downsample(renamed(kept, _SWIN_RULES))
    args = swin_args(ours, None)
    return Translated(
        state=ours,
        architecture=swin_name(args),
        model_args=args,
        pretrained_cfg=_described(args),
        origin="torchvision SwinTransformer",
        left_out=gone,
        supposed=("num_heads", "mean", "std"),
        notes=(_SUPPOSED, "the images are taken to have 224 x 224 pixels"),
    )


def _described(args: dict[str, Any]) -> dict[str, Any]:
    return _MEASURES | {"num_classes": args["num_classes"], "input_size": [args["in_chans"], *args["img_size"]]}
