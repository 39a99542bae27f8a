"""Our EfficientViT (MSRA): timm's and the original's checkpoints are loaded into our class, whose sites are traced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from timm.models.efficientvit_msra import EfficientVitMsra
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import EFFICIENTVIT
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys, to_flex_weights

TIMM_MODULES: tuple[str, ...] = ("efficientvit_msra",)
ALIASES = tuple(SIZES)


def owns(model: nn.Module) -> bool:
    return isinstance(model, EfficientVit)


def adopt(model: nn.Module) -> nn.Module:
    """timm's network in our class; any other as it is."""
    if not isinstance(model, EfficientVitMsra):
        return model
    state = to_flex_keys(model.state_dict())
    net: Any = EfficientVit(EfficientVitConfig(**inferred_args(state, model.img_size)))
    net.load_state_dict(to_flex_weights(state, net))
    config: Any = model.pretrained_cfg
    net.pretrained_cfg = net.default_cfg = dict(config) | {"architecture": EFFICIENTVIT}
    net.origin = {"source": EFFICIENTVIT, "source_args": net.config.args()}
    return net


def recognises(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r"\.attn\.qkvs\.0\.", name) for name in state)


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Arguments of `EfficientVitConfig`; the stem's strides are taken as 2.

    A window that is as large as its feature map, at `img_size` or at 224, is taken for the paper's 7, cut off there.

    Raises:
        InputError: batch norms are missing, or a layer.
    """
    if not any(name.endswith("bn.running_var") for name in state):
        raise InputError("the checkpoint has no batch norms: it is a deploy form; give the form that it was made from")
    try:
        return _inferred(state, img_size)
    except (KeyError, IndexError) as error:
        raise InputError(
            f"the checkpoint is an EfficientViT (MSRA) without {error.args[0]}; it is not whole"
        ) from error


def _inferred(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    shapes = {name: tuple(tensor.shape) for name, tensor in to_flex_keys(state).items()}
    stem = [shapes[f"patch_embed.conv{i}.conv.weight"] for i in range(1, _count(shapes, r"patch_embed\.conv(\d+)"))]
    depth = [_count(shapes, rf"stages\.{stage}\.blocks\.(\d+)") for stage in range(_count(shapes, r"stages\.(\d+)"))]
    stages = [
        [_block_args(shapes, f"stages.{stage}.blocks.{i}") for i in range(count)] for stage, count in enumerate(depth)
    ]
    args = {
        "img_size": tuple(img_size) if isinstance(img_size, list | tuple) else img_size or 224,
        "in_chans": stem[0][1],
        "stem_strides": [2] * len(stem),
        "num_classes": shapes["head.linear.weight"][0] if "head.linear.weight" in shapes else 0,
        "distillation": "head_dist.linear.weight" in shapes,
        "embed_dim": [
            shapes[f"stages.{stage}.blocks.0.mixer.m.attn.proj.conv.weight"][0] for stage in range(len(depth))
        ],
        "depth": depth,
        **_merge_args(shapes, len(depth)),
    }
    per_block = {name: [[block[name] for block in found] for found in stages] for name in stages[0][0]}
    return args | per_block | {"window_size": _native_windows(args | per_block)}


def _merge_args(shapes: Mapping[str, tuple[int, ...]], stages: int) -> dict[str, Any]:
    """Widths of the patch mergings before all stages but the first."""
    downs = [f"stages.{stage}.downsample" for stage in range(1, stages)]
    return {
        "merge_dim": [shapes[f"{down}.merge.expand.conv.weight"][0] for down in downs],
        "merge_ffn_dim": [
            [shapes[f"{down}.{side}.ffn.m.up.conv.weight"][0] for side in ("before", "after")] for down in downs
        ],
    }


def _native_windows(args: Mapping[str, Any]) -> list[list[int]]:
    """Sides of all windows; one that is as large as its feature map, here or at 224, is the paper's 7, cut off."""
    sizes = {args["img_size"], 224}
    maps = [EfficientVitConfig(**{**args, "img_size": size}).resolutions for size in sizes]
    return [
        [max(side, 7) if side in {min(resolutions[stage]) for resolutions in maps} else side for side in sides]
        for stage, sides in enumerate(args["window_size"])
    ]


def _block_args(shapes: Mapping[str, tuple[int, ...]], name: str) -> dict[str, Any]:
    """What is chosen block by block."""
    attn = f"{name}.mixer.m.attn"
    heads = _count(shapes, rf"{re.escape(attn)}\.qkvs\.(\d+)")
    kernels = [shapes[f"{attn}.dws.{head}.conv.weight"] for head in range(heads)]
    num_ffns = _count(shapes, rf"{re.escape(name)}\.before\.(\d+)")
    side = round(shapes[f"{attn}.attention_biases"][1] ** 0.5)
    return {
        "num_heads": heads,
        "qk_dim": kernels[0][0],
        "kernels": [kernel[-1] for kernel in kernels],
        "v_dim": shapes[f"{attn}.proj.conv.weight"][1] // heads,
        "num_ffns": num_ffns,
        "ffn_dim": shapes[f"{name}.before.0.ffn.m.up.conv.weight"][0] if num_ffns else 1,
        "window_size": side,
    }


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number in the names that begin with `pattern`."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(rf"{pattern}\.", name))), default=-1)


def to_timm_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Also of the original code."""
    return to_flex_weights(state, model)


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The one name of this family; its arguments follow from the shapes."""
    return {EFFICIENTVIT: (224, 224)}
