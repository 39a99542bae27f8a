"""timm's VisionTransformer: ViT, DeiT (plain and distilled), DeiT-III, DINOv2, and what else shares its layout."""

# D embed, H heads, K q/k width per head, V value width per head, F ffn width, N tokens, P patches

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import Attention, AttentionPoolLatent, GluMlp, LayerScale, Mlp, PatchEmbed, SwiGLU
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.structure import Branch, Gate, OpaqueModule, Site, Stream, Structure
from prune_realloc.families.attention import (
    STREAM,
    attention_sites,
    block_branches,
    block_site,
    ffn_site,
    has_module,
    has_norm,
    head_widths,
    opaque_attention,
    rotation_pairs,
)
from prune_realloc.families.vit_terms import block_terms, head_terms, stem_terms
from prune_realloc.models.free_attention import FreeAttention, FreePool

SUPPORTS = "timm's VisionTransformer (ViT, DeiT, DeiT-III, DINOv2)"
TIMM_MODULES: tuple[str, ...] = ("deit", "vision_transformer")
ALIASES: tuple[str, ...] = ()

_AXES = {
    "patch_embed.proj.weight": 4,
    "pos_embed": 3,
    "cls_token": 3,
    "dist_token": 3,
    "reg_token": 3,
    "head.weight": 2,
}
"""How many axes the tensors have that the shape of a network is read off."""


def owns(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and _is_known(model)


def adopt(model: nn.Module) -> nn.Module:
    """timm's networks are read as they are."""
    return model


def describe(model: VisionTransformer) -> Structure:
    """Sites, costs, opaque modules and fixed parameters of `model`."""
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    blocks: list[tuple[int, Any]] = list(enumerate(model.blocks))
    sites: list[Site] = []
    for i, block in blocks:
        attention = attention_sites(i, block.attn)
        sites += [block_site(i, block, model.embed_dim), *attention, ffn_site(i, block.mlp)]
    return Structure(
        sites=tuple(sites),
        terms=(
            *stem_terms(model),
            *(term for i, block in blocks for term in block_terms(i, block, tokens)),
            *head_terms(model, tokens),
        ),
        opaque=_opaque_modules(model),
        streams=(_stream(model),),
        fixed=_fixed_parameters(model),
        branches=tuple(branch for i, block in blocks for branch in block_branches(i, block)),
        pairs=tuple(pair for i, block in blocks for pair in rotation_pairs(i, block.attn)),
        exits=dict.fromkeys(_exits(model), STREAM),
        notes=_notes(model.blocks[0]),
    )


def example_input(model: VisionTransformer) -> tuple[int, int, int, int]:
    # the patch embedding of a hybrid reads feature maps; the first convolution reads images
    first: Any = next(module for module in model.patch_embed.modules() if isinstance(module, nn.Conv2d))
    height, width = model.patch_embed.img_size
    return 1, first.in_channels, height, width


def features(model: VisionTransformer, images: Tensor) -> Tensor:
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    return pooled if pooled.ndim == 2 else pooled[:, model.num_prefix_tokens :].mean(dim=1)


def stream_input(model: Any, stream: str, x: Tensor) -> Tensor:
    """Images (B, C, H, W) -> tokens (B, N, D); there is one stream."""
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))


def branch_output(model: Any, branch: Branch, x: Tensor) -> Tensor:
    """Shape (B, N, D), as `x`."""
    block, attention = model.blocks[branch.block], branch.name.endswith(".attn")
    module, norm = (block.attn, block.norm1) if attention else (block.mlp, block.norm2)
    if branch.post_norm:
        return norm(module(x))
    return (block.ls1 if attention else block.ls2)(module(norm(x)))


def head_output(model: VisionTransformer, x: Tensor) -> Tensor:
    return model.forward_head(model.norm(x))


def fold_scales_(model: VisionTransformer) -> None:
    """Move LayerScale into the layer before it."""
    block: Any
    for block in model.blocks:
        for name, writer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            scale = getattr(block, name, None)  # a ResPostBlock has none
            if isinstance(scale, LayerScale):
                writer.weight.data = writer.weight * scale.gamma[:, None]
                if writer.bias is not None:
                    writer.bias.data = writer.bias * scale.gamma
                scale.gamma.data = torch.ones_like(scale.gamma)


def drop_blocks_(model: VisionTransformer, gone: Collection[int]) -> None:
    model.blocks = nn.Sequential(*(block for i, block in enumerate(model.blocks) if i not in gone))
    left = [info for i, info in enumerate(model.feature_info) if i not in gone]
    model.feature_info = [info | {"module": f"blocks.{i}"} for i, info in enumerate(left)]


def sync_(model: Any, keep: Mapping[str, np.ndarray], source: Any, gone: Any) -> None:
    for i, block in enumerate(model.blocks):
        attn = block.attn
        heads = len(keep.get(f"blocks.{i}.heads", range(attn.num_heads)))
        v_dim = attn.proj.weight.shape[1] // heads
        qk_dim = (attn.qkv.weight.shape[0] - heads * v_dim) // (2 * heads)
        if (heads, qk_dim, v_dim) != (attn.num_heads, *head_widths(attn)):
            block.attn = FreeAttention(attn, heads, qk_dim, v_dim).train(attn.training)
    embed_dim = model.patch_embed.proj.weight.shape[0]
    if model.attn_pool is not None and embed_dim != model.embed_dim:
        model.attn_pool = FreePool(model.attn_pool).train(model.attn_pool.training)
    model.embed_dim = embed_dim
    model.num_features = model.head_hidden_size = embed_dim if model.attn_pool is None else model.attn_pool.out_features
    model.feature_info = [info | {"num_chs": embed_dim} for info in model.feature_info]


def _is_known(model: Any) -> bool:
    """Is the network made of the blocks, attentions, MLPs and poolings that this family declares?"""
    blocks = all(isinstance(block, Block | ResPostBlock) for block in model.blocks)
    pool = model.attn_pool
    return (
        isinstance(model.patch_embed, PatchEmbed)
        and blocks
        and all(type(block.attn) in (Attention, FreeAttention) for block in model.blocks)
        and all(isinstance(block.mlp, Mlp | GluMlp | SwiGLU) for block in model.blocks)
        and (pool is None or (isinstance(pool, AttentionPoolLatent | FreePool) and pool.pos_embed is None))
    )


def _stream(model: VisionTransformer) -> Stream:
    """The one residual stream; what enters the first block is norm_pre's output, or the embedded tokens."""
    every = np.arange(model.embed_dim)[:, None]
    writers = [f"blocks.{i}.{name}" for i in range(len(model.blocks)) for name in ("drop_path1", "drop_path2")]
    gates = (Gate("blocks.0", "input", every), *(Gate(writer, "output", every) for writer in writers))
    return Stream(("patch_embed.proj.weight", 0), gates)


def _opaque_modules(model: Any) -> tuple[OpaqueModule, ...]:
    """All attentions, and the attention pooling."""
    found = [opaque_attention(f"blocks.{i}.attn", block.attn) for i, block in enumerate(model.blocks)]
    pool = model.attn_pool
    if pool is not None:
        reads = (("attn_pool.kv.weight", 1),)
        found.append(OpaqueModule("attn_pool", reads, (), pool.kv.weight.shape[1], pool.out_features, tokens_out=1))
    return tuple(found)


def _fixed_parameters(model: VisionTransformer) -> dict[str, str]:
    """Parameter -> why no site may narrow it."""
    fixed: dict[str, str] = {}
    if model.attn_pool is not None:
        fixed |= {f"attn_pool.{name}": "attention pooling" for name, _ in model.attn_pool.named_parameters()}
        del fixed["attn_pool.kv.weight"]  # it reads the stream
        for head in ("fc_norm", "head"):
            names = (name for name, _ in model.get_submodule(head).named_parameters())
            fixed |= {f"{head}.{name}": "reads the attention pooling" for name in names}
    biases = {"head.bias", "head_dist.bias"} & {name for name, _ in model.named_parameters()}
    return fixed | dict.fromkeys(sorted(biases), "one entry per class")


def _exits(model: VisionTransformer) -> list[str]:
    """Linear layers that read the stream behind the last block."""
    if model.attn_pool is not None:
        return ["attn_pool.kv"]
    return [name for name in ("head", "head_dist") if isinstance(getattr(model, name, None), nn.Linear)]


def _notes(block: Any) -> tuple[str, ...]:
    """What is special in the blocks, told from one of them."""
    notes = []
    if has_norm(block.attn.q_norm):
        notes.append(
            "q/k norm: its weights are shared by the heads, so a qk unit is one dimension of all heads, and "
            "Q/K are not rotated"
        )
    if has_module(block.attn, "norm") or has_module(block.attn, "gate"):
        notes.append("a norm or gate lies between V and proj, so V is not rotated")
    return tuple(notes)


class _BlockProbe(nn.Identity):
    """Stands in for a block, so that timm builds a network's outside in milliseconds and shows its numbers."""

    def __init__(self, dim: int, num_heads: int, **kwargs: Any) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads


def recognises(state: Mapping[str, Tensor]) -> bool:
    hybrid = any(name.startswith("patch_embed.backbone.") for name in state)
    blocks = any(re.match(r"blocks\.\d+\.attn\.qkv\.weight", name) for name in state)
    return "patch_embed.proj.weight" in state and blocks and not hybrid


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Patch and input size, channels and classes, and average pooling where there is a norm behind it.

    Raises:
        InputError: the position embedding's grid is not square, and no input size is known; or a tensor is not of the
            kind that its name says.
    """
    for name, axes in _AXES.items():
        if name in state and state[name].ndim != axes:
            shape = tuple(state[name].shape)
            raise InputError(f"{name} has the shape {shape}, not one of {axes} axes; the checkpoint is damaged")
    weight = state["patch_embed.proj.weight"]
    patch_h, patch_w = weight.shape[2:]
    args: dict[str, Any] = {
        "in_chans": weight.shape[1],
        "patch_size": patch_h if patch_h == patch_w else (patch_h, patch_w),
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
    }
    if "fc_norm.weight" in state and "norm.weight" not in state:
        args["global_pool"] = "avg"  # timm has this norm behind the pooling of patches only
    if "pos_embed" not in state:
        return args
    length = state["pos_embed"].shape[1]
    tokens = [state[t].shape[1] for t in ("cls_token", "dist_token", "reg_token", "register_tokens") if t in state]
    # the class, distillation and register tokens may or may not have a position of their own
    for patches in (length - sum(tokens), length - 1, length):
        side = round(max(patches, 0) ** 0.5)
        if patches > 0 and side * side == patches:
            return args | {"img_size": side * patch_h if patch_h == patch_w else (side * patch_h, side * patch_w)}
    if img_size is None:
        raise InputError(
            f"pos_embed has {length} entries, not a square grid; give the input size with --img-size HEIGHT,WIDTH"
        )
    return args | {"img_size": img_size}


def depth_args(blocks: int) -> dict[str, Any]:
    return {"depth": blocks}


def to_timm_keys(state: dict[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """The state dict of an original release (DeiT-III, DINOv2, CLIP, ...) under timm's names.

    Raises:
        RuntimeError: timm cannot, since tensors have other shapes than it goes by.
    """
    try:
        return checkpoint_filter_fn(state, model, adapt_layer_scale=any("gamma_1" in k for k in state))
    except (IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise RuntimeError(f"timm stumbles over the shape of a tensor: {first_line(error)}") from error


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Those whose width, depth and patch size are the tensors'."""
    embed_dim, _, *patch = state["patch_embed.proj.weight"].shape
    depth = 1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d{1,4})\.", k)))
    return {name: size for name, *shape, size in _outlines() if shape == [embed_dim, depth, tuple(patch)]}


@cache
def _outlines() -> tuple[tuple[str, int, int, tuple[int, ...], tuple[int, ...]], ...]:
    """(name, width, depth, patch size, input size) of every timm model of this family; takes about two seconds."""
    found = []
    for name in [name for module in TIMM_MODULES for name in timm.list_models(module=module)]:
        try:
            with torch.device("meta"):
                probe: Any = timm.create_model(name, block_fn=_BlockProbe)
        except (TypeError, AttributeError, AssertionError):
            continue  # a variant that sets its blocks up in another way; it is not of this family's layout
        patches = probe.patch_embed
        found.append((name, probe.embed_dim, len(probe.blocks), tuple(patches.patch_size), tuple(patches.img_size)))
    return tuple(found)
