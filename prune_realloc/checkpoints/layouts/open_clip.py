"""The image towers of open_clip and of OpenAI's CLIP -> timm's VisionTransformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import is_model
from torch import Tensor

from prune_realloc.checkpoints.layouts.stated import Stated
from prune_realloc.checkpoints.layouts.translated import (
    Config,
    State,
    Translated,
    count_blocks,
    require_shape,
    split_off,
)
from prune_realloc.checkpoints.layouts.vit_args import by_timm, mlp_ratio, named
from prune_realloc.core.errors import InputError

_VISUAL, _TRUNK = "visual.", "visual.trunk."
_OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Numbers that lie among the tensors of OpenAI's own files."""
_UNSTATED = "without open_clip_config.json, GELU or QuickGELU is not known: the name decides (clip or clip_quickgelu)"


def recognise(state: State, config: Config) -> bool:
    tower = (f"{_VISUAL}class_embedding", f"{_VISUAL}conv1.weight", f"{_TRUNK}patch_embed.proj.weight")
    alone = "class_embedding" in state and "conv1.weight" in state and "ln_pre.weight" in state
    return alone or any(name in state for name in tower)


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs: the image in the space that it shares with text.

    Args:
        config: the folder's `open_clip_config.json`.

    Raises:
        InputError: the tower is no ViT that timm has, or the file is not whole.
    """
    if "class_embedding" in state:  # the tower alone
        state = {f"{_VISUAL}{name}": tensor for name, tensor in state.items()}
    gone = tuple(name for name in state if not name.startswith(_VISUAL))
    tower = {name: tensor for name, tensor in state.items() if name.startswith(_VISUAL)}
    if f"{_VISUAL}layer1.0.conv1.weight" in tower:
        raise InputError("weights: the image tower of this CLIP is a ResNet; only its ViTs are supported")
    stated = _vision(config)
    if f"{_TRUNK}patch_embed.proj.weight" in tower:
        return _of_timm(tower, stated, config, gone)
    tower, unused = split_off(tower, r"visual\.(attn_pool|ln_post_pool)\b")
    if unused:
        raise InputError(f"weights: {unused[0]!r}: this tower pools by attention in a way that timm's CLIP does not")
    args = _args(tower)
    openai = any(name in state for name in _OPENAI)
    quick = True if openai else _quick(config)
    kind = "clip_quickgelu" if quick else "clip"
    name = named(args, (f"vit_{{size}}_patch{{patch}}_{kind}_{{img}}",), f"vit_base_patch16_{kind}_224")
    args["num_heads"] = max(args["embed_dim"] // _head_width(stated), 1)
    if quick is not None:
        args["act_layer"] = "quick_gelu" if quick else "gelu"
    return Translated(
        state=_by_timm(tower, name, args),
        architecture=None if quick is None else name,
        model_args=args,
        pretrained_cfg=_described(config, args),
        origin="OpenAI CLIP" if openai else "open_clip",
        left_out=gone,
        notes=(_UNSTATED,) if quick is None else (),
    )


def _args(tower: State) -> dict[str, Any]:
    width, channels, patch, _ = require_shape(tower, f"{_VISUAL}conv1.weight", 4)
    positions = require_shape(tower, f"{_VISUAL}positional_embedding", 2)[0]
    side = round(max(positions - 1, 0) ** 0.5)
    if side < 1 or side * side != positions - 1:
        raise InputError(f"weights: {positions - 1} patches are no square grid, so the image size is unknown")
    blocks = f"{_VISUAL}transformer.resblocks"
    projected = f"{_VISUAL}proj" in tower
    return {
        "img_size": [side * patch, side * patch],
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": require_shape(tower, f"{_VISUAL}proj", 2)[1] if projected else 0,
        "embed_dim": width,
        "depth": count_blocks(tower, blocks.replace(".", r"\.")),
        "mlp_ratio": mlp_ratio(width, require_shape(tower, f"{blocks}.0.mlp.c_fc.weight", 2)[0]),
        "init_values": 1.0 if f"{blocks}.0.ls_1.gamma" in tower else None,
        "class_token": True,
        "pre_norm": True,
        "global_pool": "token",
    }


def _by_timm(tower: dict[str, Tensor], name: str, args: dict[str, Any]) -> dict[str, Tensor]:
    """As timm converts it; of LayerScale it has another name."""
    tower = {one.replace(".ls_1.", ".ls1.").replace(".ls_2.", ".ls2."): tensor for one, tensor in tower.items()}
    state = by_timm(tower, name, args)
    if "head.bias" in state:  # timm makes it in single precision
        state["head.bias"] = state["head.bias"].to(state["head.weight"].dtype)
    return state


def _of_timm(tower: State, stated: Stated | None, config: Config, gone: tuple[str, ...]) -> Translated:
    """A tower that open_clip took from timm."""
    state = {name.removeprefix(_TRUNK): tensor for name, tensor in tower.items() if name.startswith(_TRUNK)}
    heads = {name: tensor for name, tensor in tower.items() if not name.startswith(_TRUNK)}
    args: dict[str, Any] = {"num_classes": 0}
    if set(heads) == {f"{_VISUAL}head.proj.weight"} and "head.weight" not in state:
        state["head.weight"] = heads.pop(f"{_VISUAL}head.proj.weight")
        state["head.bias"] = state["head.weight"].new_zeros(len(state["head.weight"]))
    if "head.weight" in state:
        args["num_classes"] = require_shape(state, "head.weight", 2)[0]
    name = stated.get("timm_model_name") if stated else None
    known = isinstance(name, str) and is_model(name.split(".")[0])
    pool = stated.get("timm_pool") if stated and stated.get("timm_pool") in ("avg", "token", "map") else None
    return Translated(
        state=state,
        architecture=str(name) if known else None,
        model_args=args | ({"global_pool": pool} if known and pool else {}),
        pretrained_cfg=_described(config, args),
        origin="open_clip, with a tower of timm",
        left_out=(*gone, *heads),
    )


def _vision(config: Config) -> Stated | None:
    inner = config.get("model_cfg") if config is not None else None
    vision = inner.get("vision_cfg") if isinstance(inner, Mapping) else None
    return Stated(vision, "open_clip_config.json: vision_cfg") if isinstance(vision, Mapping) else None


def _head_width(stated: Stated | None) -> int:
    return stated.whole("head_width") if stated and stated.get("head_width") is not None else 64


def _quick(config: Config) -> bool | None:
    """Whether QuickGELU is stated; open_clip leaves it out where it is GELU."""
    inner = config.get("model_cfg") if config is not None else None
    return bool(inner.get("quick_gelu", False)) if isinstance(inner, Mapping) else None


def _described(config: Config, args: dict[str, Any]) -> dict[str, Any]:
    """CLIP's mean and deviation, or those that are stated."""
    out: dict[str, Any] = {"mean": list(OPENAI_CLIP_MEAN), "std": list(OPENAI_CLIP_STD), "interpolation": "bicubic"}
    inner = config.get("preprocess_cfg") if config is not None else None
    stated = Stated(inner if isinstance(inner, Mapping) else {}, "open_clip_config.json: preprocess_cfg")
    for key in ("mean", "std"):
        value = stated.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or len(value) != 3 or not all(type(one) in (int, float) for one in value):
            raise stated.wrong(key, "a list of three numbers")
        out[key] = [float(one) for one in value]
    if stated.get("interpolation") in ("bicubic", "bilinear"):
        out["interpolation"] = stated.get("interpolation")
    out |= {"crop_pct": 1.0, "crop_mode": "squash" if stated.get("resize_mode") == "squash" else "center"}
    size = {"input_size": [args["in_chans"], *args["img_size"]]} if "img_size" in args else {}
    return out | size | {"num_classes": args["num_classes"]}
