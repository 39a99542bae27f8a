"""Hugging Face's Swin Transformer -> timm's SwinTransformer."""

from __future__ import annotations

from prune_realloc.checkpoints.layouts.hf_vit import PATCHES
from prune_realloc.checkpoints.layouts.huggingface import (
    activation,
    bare,
    described,
    image_size,
    require_width,
    titled,
    vision_config,
)
from prune_realloc.checkpoints.layouts.swin_args import later_downsample, swin_args, swin_name
from prune_realloc.checkpoints.layouts.translated import (
    Config,
    Rules,
    State,
    Translated,
    fused,
    prefix_of,
    renamed,
    split_off,
)
from prune_realloc.core.errors import InputError

_RULES: Rules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    *((rf"\.attention\.self\.{name}\.", f".attn.{name[0]}.") for name in ("query", "key", "value")),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (
        r"\.attention\.(?:self|relative_position_bias)\.relative_position_bias_table$",
        ".attn.relative_position_bias_table",
    ),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head.fc."),
)
_ASIDE = r"(\w+\.)?(decoder|embeddings\.mask_token)\b|.*relative_position_index$"
_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}


def recognise(state: State, config: Config) -> bool:
    prefix = prefix_of(state, PATCHES)
    return prefix is not None and f"{prefix}encoder.layers.0.blocks.0.layernorm_before.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs: logits, or the mean of the normed patches.

    Raises:
        InputError: the file is not whole, its configuration is of another network, or the network is not timm's.
    """
    if prefix_of(state, "embeddings.position_embeddings") is not None:
        raise InputError(
            "weights: embeddings.position_embeddings: timm's Swin has no absolute positions, so no network of it "
            "has the same outputs; give a Swin without them"
        )
    kept, gone = split_off(state, _ASIDE)
    encoder, beside = bare(kept, prefix_of(state, PATCHES) or "")
    ours = later_downsample(fused(renamed(encoder | beside, _RULES)))
    stated = vision_config(config, _DEFAULTS)
    args = swin_args(ours, image_size(stated) if stated else None)
    if stated is not None:
        require_width(stated, args["embed_dim"], "embed_dim")
        if activation(stated) != "gelu":
            raise stated.wrong("hidden_act", "gelu, the one that timm's Swin has")
    return Translated(
        state=ours,
        architecture=swin_name(args),
        model_args=args,
        pretrained_cfg=described(config, preprocessor, args),
        origin=titled(config, "Swin"),
        left_out=gone,
        norm_eps=None if stated is None or stated.number("layer_norm_eps") == 1e-5 else stated.number("layer_norm_eps"),
        notes=() if stated else ("without config.json, the images are taken to have 224 x 224 pixels",),
    )
