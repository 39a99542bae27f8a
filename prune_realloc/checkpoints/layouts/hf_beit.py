"""Hugging Face's BEiT and Data2Vec-Vision -> timm's Beit."""

from __future__ import annotations

from typing import Any

from prune_realloc.checkpoints.layouts.hf_vit import BLOCK_RULES, PATCHES
from prune_realloc.checkpoints.layouts.huggingface import (
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
    count_blocks,
    fused,
    prefix_of,
    renamed,
    require_shape,
    split_off,
)
from prune_realloc.checkpoints.layouts.vit_args import mlp_ratio, named
from prune_realloc.core.errors import InputError

_RULES: Rules = (
    (r"^(?:encoder\.relative|shared)_position_bias\.", "rel_pos_bias."),
    (r"\.attention\.attention\.query\.bias$|\.attention\.q_proj\.bias$", ".attn.q_bias"),
    (r"\.attention\.attention\.value\.bias$|\.attention\.v_proj\.bias$", ".attn.v_bias"),
    # of a block: inside its attention in files, beside it in the memory of transformers 5
    (
        r"\.(?:attention\.attention\.)?relative_position_bias\.relative_position_bias_table$",
        ".attn.relative_position_bias_table",
    ),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^classifier\.", "head."),
    *BLOCK_RULES,
)
_ASIDE = r"(\w+\.)?(lm_head|embeddings\.mask_token)\b|.*relative_position_index$"
_DEFAULTS = {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12}


def recognise(state: State, config: Config) -> bool:
    prefix = prefix_of(state, PATCHES)
    special = ("lambda_1", "relative_position_bias_table")
    return prefix is not None and any(name.startswith(prefix) and name.endswith(special) for name in state)


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs: logits, or the pooled image.

    Raises:
        InputError: the file is not whole, its configuration is of another network, or the network is not timm's.
    """
    kept, gone = split_off(state, _ASIDE)
    encoder, beside = bare(kept, prefix_of(state, PATCHES) or "")
    ours = fused(renamed(encoder | beside, _RULES))
    for name in [name for name in ours if name.endswith(".attn.q_bias")]:
        ours[name.replace("q_bias", "k_bias")] = ours[name].new_zeros(ours[name].shape)
    ours = {name: tensor for name, tensor in ours.items() if not name.endswith("k_bias")}
    stated = vision_config(config, _DEFAULTS)
    args = _args(ours, image_size(stated) if stated else None)
    epsilon = 1e-6
    if stated is not None:
        require_width(stated, args["embed_dim"])
        if activation(stated) != "gelu":
            raise stated.wrong("hidden_act", "gelu, the one that timm's Beit has")
        args["num_heads"] = stated.whole("num_attention_heads")
        epsilon = stated.number("layer_norm_eps")
    return Translated(
        state=ours,
        architecture=named(args, ("beit_{size}_patch{patch}_{img}",), "beit_base_patch16_224"),
        model_args=args,
        pretrained_cfg=described(config, preprocessor, args),
        origin=titled(config, "BEiT"),
        left_out=gone,
        norm_eps=None if epsilon == 1e-6 else epsilon,
    )


def _args(state: State, stated: tuple[int, int] | None) -> dict[str, Any]:
    """Of the shapes; the table of positions has a row for each pair of patches that differ, and three more."""
    width, channels, patch, _ = require_shape(state, "patch_embed.proj.weight", 4)
    args: dict[str, Any] = {
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": require_shape(state, "head.weight", 2)[0] if "head.weight" in state else 0,
        "embed_dim": width,
        "depth": count_blocks(state),
        "mlp_ratio": mlp_ratio(width, require_shape(state, "blocks.0.mlp.fc1.weight", 2)[0]),
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "init_values": 0.1 if "blocks.0.gamma_1" in state else None,
        "use_abs_pos_emb": "pos_embed" in state,
        "use_rel_pos_bias": "blocks.0.attn.relative_position_bias_table" in state,
        "use_shared_rel_pos_bias": "rel_pos_bias.relative_position_bias_table" in state,
        "global_pool": "token" if "norm.weight" in state else "avg",
    }
    if tables := [name for name in state if name.endswith("relative_position_bias_table")]:
        args["num_heads"] = require_shape(state, tables[0], 2)[1]
    return args | {"img_size": list(_image_size(state, tables, patch, stated))}


def _image_size(state: State, tables: list[str], patch: int, stated: tuple[int, int] | None) -> tuple[int, int]:
    """The stated size where it goes with the positions; else that of a square grid.

    A table has a row for each way in which two patches can lie to each other, and three for the class token.
    """
    side, fits = 0, True
    if tables:
        rows = require_shape(state, tables[0], 2)[0] - 3
        side = (round(max(rows, 0) ** 0.5) + 1) // 2
        fits = stated is None or (2 * (stated[0] // patch) - 1) * (2 * (stated[1] // patch) - 1) == rows
    elif "pos_embed" in state:
        patches = require_shape(state, "pos_embed", 3)[1] - 1
        side = round(max(patches, 0) ** 0.5)
        fits = stated is None or (stated[0] // patch) * (stated[1] // patch) == patches
    if not fits:
        raise InputError(f"config.json: image_size {list(stated or ())} does not go with BEiT's positions; correct it")
    if stated is None and not side:
        raise InputError("weights: the image size is in no tensor of this BEiT; state image_size in config.json")
    return stated or (side * patch, side * patch)
