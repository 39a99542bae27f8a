"""Hugging Face's ViT, DeiT, ViTMAE, ViTMSN and DINOv2 with and without registers -> timm's VisionTransformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.layouts.huggingface import (
    UNSTATED,
    activation_args,
    bare,
    described,
    image_size,
    require_width,
    titled,
    vision_config,
)
from prune_realloc.checkpoints.layouts.translated import (
    Config,
    Rules,
    State,
    Translated,
    fused,
    prefix_of,
    renamed,
    require_shape,
    split_off,
    stacked,
)
from prune_realloc.checkpoints.layouts.vit_args import named, norm_args, vit_args
from prune_realloc.core.errors import InputError

PATCHES = "embeddings.patch_embeddings.projection.weight"
BLOCK_RULES: Rules = (
    (r"^embeddings\.(cls_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    # transformers 5 has shorter names in memory than in its files; both are seen in the wild
    (r"^(?:encoder\.layer|encoder\.layers|layers)\.(\d+)\.", r"blocks.\1."),
    *((rf"\.attention\.attention\.{name}\.", f".attn.{name[0]}.") for name in ("query", "key", "value")),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""ViT's blocks; BEiT has the same, and more."""
_RULES: Rules = (
    *BLOCK_RULES,
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(?:weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
)
_ASIDE = r"(\w+\.)?(pooler|decoder|lm_head|embeddings\.mask_token)\b"
"""No part of timm's network: what reads the class token for other tasks, and what pre-training needed."""
_HEADS: Rules = ((r"^(cls_)?classifier\.", "head."), (r"^distillation_classifier\.", "head_dist."))
_DEFAULTS = {"num_attention_heads": 12, "hidden_act": "gelu"}
_TWO_READ = "its classifier reads the class token beside the mean of the patches, as timm's does not: it is left out"


def recognise(state: State, config: Config) -> bool:
    prefix = prefix_of(state, PATCHES)
    return prefix is not None and f"{prefix}embeddings.cls_token" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs: logits, or the normed class token where there is no classifier.

    Raises:
        InputError: the file is not whole, its configuration is of another network, or the network is not timm's.
    """
    kept, gone = split_off(state, _ASIDE)
    encoder, beside = bare(kept, prefix_of(state, PATCHES) or "")
    ours = _with_gates(fused(renamed(encoder | beside, (*_RULES, *_HEADS))))
    width, dino = require_shape(ours, "patch_embed.proj.weight", 4)[0], "blocks.0.ls1.gamma" in ours
    notes: tuple[str, ...] = ()
    if dino and "head.weight" in ours and ours["head.weight"].shape[-1] == 2 * width:
        ours, _ = split_off(ours, r"head\.")
        gone, notes = (*gone, "classifier.weight", "classifier.bias"), (_TWO_READ,)
    ours, tokens = _with_tokens(ours)
    stated = vision_config(config, _DEFAULTS | {"layer_norm_eps": 1e-6 if dino else 1e-12})
    positions = 0 if "no_embed_class" in tokens else 1 + ("dist_token" in ours) + ("reg_token" in ours)
    args = vit_args(ours, positions, image_size(stated) if stated else None) | tokens
    if stated is None:
        notes = (*notes, UNSTATED)
    else:
        require_width(stated, width)
        args |= {"num_heads": stated.whole("num_attention_heads")} | norm_args(stated.number("layer_norm_eps"), 1e-6)
        args |= {} if _gated(ours) else activation_args(stated)
    return Translated(
        state=ours,
        architecture=_name(ours, args) if stated else None,
        model_args=args,
        pretrained_cfg=described(config, preprocessor, args),
        origin=titled(config, "DINOv2" if dino else "ViT"),
        left_out=gone,
        notes=notes,
    )


def _with_gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's `gate_proj` above `up_proj`, as timm's `fc1`."""
    out = {}
    for name, tensor in state.items():
        if ".mlp.gate_proj." in name:
            out[name.replace("gate_proj", "fc1")] = stacked(state, [name, name.replace("gate_proj", "up_proj")])
        elif ".mlp.up_proj." not in name:
            out[name] = tensor
    return out


def _with_tokens(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """timm's tokens beside the class token, and the arguments that make them.

    DINOv2's registers have no position, so that of the class token goes into the token. DeiT's distillation token has
    one; where no classifier reads it, it is a register like others.
    """
    out = dict(state)
    if "reg_token" in out:
        if require_shape(out, "pos_embed", 3)[2] != require_shape(out, "cls_token", 3)[2]:
            raise InputError("weights: pos_embed and cls_token are of different widths; the file is damaged")
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
        return out, {"reg_tokens": require_shape(out, "reg_token", 3)[1], "no_embed_class": True}
    if "dist_token" in out and "head_dist.weight" not in out:
        out["reg_token"] = out.pop("dist_token")
        return out, {"reg_tokens": 1}
    return out, {}


def _gated(state: State) -> bool:
    fc1, fc2 = (require_shape(state, f"blocks.0.mlp.{name}.weight", 2) for name in ("fc1", "fc2"))
    return fc1[0] == 2 * fc2[1]


def _name(state: State, args: dict[str, Any]) -> str:
    if "blocks.0.ls1.gamma" in state:
        registers = "_reg4" if "reg_token" in state else ""
        if _gated(state):
            return f"vit_giant_patch14{registers}_dinov2"
        return named(args, (f"vit_{{size}}_patch{{patch}}{registers}_dinov2",), f"vit_base_patch14{registers}_dinov2")
    if "dist_token" in state:
        return named(args, ("deit_{size}_distilled_patch{patch}_{img}",), "deit_base_distilled_patch16_224")
    if "reg_token" in state:
        return named(args, ("deit_{size}_patch{patch}_{img}",), "deit_base_patch16_224")
    return named(args, ("vit_{size}_patch{patch}_{img}",), "vit_base_patch16_224")
