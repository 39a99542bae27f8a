"""Swin Transformers of their authors -> timm's SwinTransformer."""

from __future__ import annotations

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from prune_realloc.checkpoints.layouts.swin_args import later_downsample, swin_args, swin_name
from prune_realloc.checkpoints.layouts.translated import (
    Config,
    Rules,
    State,
    Translated,
    renamed,
    require_shape,
    split_off,
)

_RULES: Rules = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)
_BUFFERS = r".*\.(relative_position_index|attn_mask)$"


def recognise(state: State, config: Config) -> bool:
    # timm merges patches at the start of a stage, so its first has nothing to merge
    tables = "layers.0.blocks.0.attn.relative_position_bias_table"
    return "layers.0.downsample.reduction.weight" in state and tables in state and "patch_embed.proj.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs; the masks of its windows, which lie in the file, tell the image size.

    Raises:
        InputError: the file is not whole.
    """
    kept, gone = split_off(state, _BUFFERS)
    ours = later_downsample(renamed(kept, _RULES))
    args = swin_args(ours, None)
    notes = ["mean and std are ImageNet's, as in the authors' script"]
    mask = "layers.0.blocks.1.attn_mask"
    if mask in state:
        side = round(require_shape(state, mask, 3)[0] ** 0.5) * args["window_size"] * args["patch_size"]
        args["img_size"] = [min(side, 4096)] * 2
    else:
        notes.append("the images are taken to have 224 x 224 pixels")
    measures = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD), "interpolation": "bicubic"}
    size = {"num_classes": args["num_classes"], "input_size": [args["in_chans"], *args["img_size"]]}
    return Translated(
        state=ours,
        architecture=swin_name(args),
        model_args=args,
        pretrained_cfg=measures | size,
        origin="Swin of its authors",
        left_out=gone,
        supposed=("mean", "std"),
        notes=tuple(notes),
    )
