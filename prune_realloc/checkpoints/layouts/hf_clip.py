"""The image towers of Hugging Face's CLIP and SigLIP -> timm's VisionTransformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.layouts.huggingface import (
    UNSTATED,
    activation,
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
)
from prune_realloc.checkpoints.layouts.vit_args import named, norm_args, vit_args

_PATCHES = "embeddings.patch_embedding.weight"
_RULES: Rules = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),  # as it is spelt there
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_HEADS: Rules = ((r"^classifier\.", "head."), (r"^visual_projection\.", "head."))
_ASIDE = r"(text_model|text_projection|logit_scale|logit_bias)\b|(.*\.)?position_ids$"
_CLIP = {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}


def recognise(state: State, config: Config) -> bool:
    prefix = prefix_of(state, _PATCHES)
    return prefix is not None and f"{prefix}embeddings.position_embedding.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs: logits, the projected image, or the pooled image.

    Raises:
        InputError: the file is not whole, its configuration is of another network, or the network is not timm's.
    """
    kept, gone = split_off(state, _ASIDE)
    tower, beside = bare(kept, prefix_of(state, _PATCHES) or "")
    clip = "embeddings.class_embedding" in tower
    if "classifier.weight" in beside:  # it reads the mean of the patches, and no pooling
        tower, unused = split_off(tower, r"post_layernorm\." if clip else r"head\.")
        gone = (*gone, *(name for name in state if any(name.endswith(f".{one}") for one in unused)))
    ours = _finished(fused(renamed(tower, _RULES) | renamed(beside, _HEADS)))
    stated = vision_config(config, _CLIP if clip else _SIGLIP)
    args = vit_args(ours, int(clip), image_size(stated) if stated else None)
    args |= _pooling(ours, clip, "classifier.weight" in beside)
    if stated:
        require_width(stated, args["embed_dim"])
        args |= {"num_heads": stated.whole("num_attention_heads"), "act_layer": activation(stated)}
        args |= norm_args(stated.number("layer_norm_eps"), 1e-5 if clip else 1e-6)
    return Translated(
        state=ours,
        architecture=_name(args, clip) if stated else None,
        model_args=args,
        pretrained_cfg=described(config, preprocessor, args, classifier="classifier.weight" in beside),
        origin=titled(config, "CLIP" if clip else "SigLIP"),
        left_out=gone,
        notes=() if stated else (UNSTATED,),
    )


def _finished(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings with timm's dimensions, the pooling's Q apart from its K and V, a bias below the projection."""
    out = dict(state)
    for name, dims in (("cls_token", 3), ("pos_embed", 3)):
        while name in out and out[name].ndim < dims:
            out[name] = out[name][None]
    for kind in ("weight", "bias"):
        name = f"head.attention.in_proj_{kind}"
        if name in out:
            width = require_shape(out, name, 2 if kind == "weight" else 1)[0] // 3
            packed = out.pop(name)
            out[f"attn_pool.q.{kind}"], out[f"attn_pool.kv.{kind}"] = packed[:width], packed[width:]
    if "head.weight" in out and "head.bias" not in out:
        out["head.bias"] = out["head.weight"].new_zeros(require_shape(out, "head.weight", 2)[0])
    return out


def _pooling(state: State, clip: bool, classified: bool) -> dict[str, Any]:
    if clip:
        ours = {"class_token": True, "pre_norm": True, "global_pool": "avg" if classified else "token"}
        return ours | ({"final_norm": False} if classified else {})
    if "attn_pool.latent" in state:
        return {"class_token": False, "global_pool": "map"}
    return {"class_token": False, "global_pool": "avg", "fc_norm": False}


def _name(args: dict[str, Any], clip: bool) -> str:
    if not clip:
        kind = "siglip" if args["global_pool"] == "map" else "siglip_gap"
        return named(args, (f"vit_{{size}}_patch{{patch}}_{kind}_{{img}}",), f"vit_base_patch16_{kind}_224")
    kind = "clip_quickgelu" if args["act_layer"] == "quick_gelu" else "clip"
    return named(args, (f"vit_{{size}}_patch{{patch}}_{kind}_{{img}}",), f"vit_base_patch16_{kind}_224")
