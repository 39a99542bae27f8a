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
from timm.layers import Attention, AttentionPoolLatent, GluMlp, LayerScale, Mlp, SwiGLU
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from prune_realloc.core.cost import Term
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Branch, Gate, OpaqueModule, Pair, Site, Structure
from prune_realloc.families.attention import (
    attention_sites,
    block_branches,
    block_site,
    block_terms,
    count_elements,
    ffn_site,
    has_module,
    has_norm,
    head_widths,
    opaque_attention,
    rotation_pairs,
)
from prune_realloc.models.free_attention import FreeAttention, FreePool

TIMM_MODULES = ("deit", "vision_transformer")
"""Where timm defines the networks of this family."""
ALIASES = ()
"""Every network of this family is built under its own name."""


def adopt(model: nn.Module) -> nn.Module:
    """timm's networks are read as they are."""
    return model


def owns(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer)


def describe(model: Any) -> Structure:
    """Sites, costs, opaque modules and fixed parameters of `model`.

    Raises:
        InputError: a block or attention type that this family does not know.
    """
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    sites: list[Site] = []
    pairs: list[Pair] = []
    branches: list[Branch] = []
    terms = _stem_terms(model)
    opaque: list[OpaqueModule] = []
    # norm_pre's output, or the embedded tokens, is what enters the first block
    stream_gates = [Gate("blocks.0", "input", np.arange(model.embed_dim)[:, None])]
    notes: list[str] = []
    for i, block in enumerate(model.blocks):
        _check_block(i, block)
        prefix = f"blocks.{i}"
        sites += [block_site(i, block, model.embed_dim), *attention_sites(i, block.attn), ffn_site(i, block.mlp)]
        pairs += rotation_pairs(i, block.attn, sites[-3], sites[-2])
        branches += block_branches(i, block)
        terms += block_terms(i, block, tokens)
        opaque.append(opaque_attention(f"{prefix}.attn", block.attn))
        stream_gates += [
            Gate(f"{prefix}.{name}", "output", np.arange(model.embed_dim)[:, None])
            for name in ("drop_path1", "drop_path2")
        ]
    if has_norm(model.blocks[0].attn.q_norm):
        notes.append(
            "q/k norm: its weights are shared by the heads, so a qk unit is one dimension of all heads, and "
            "Q/K are not rotated"
        )
    if has_module(model.blocks[0].attn, "norm") or has_module(model.blocks[0].attn, "gate"):
        notes.append("a norm or gate lies between V and proj, so V is not rotated")
    fixed: dict[str, str] = {}
    if model.attn_pool is not None:
        _check_attn_pool(model.attn_pool)
        opaque.append(_opaque_attn_pool(model.attn_pool))
        fixed |= {f"attn_pool.{n}": "attention pooling" for n, _ in model.attn_pool.named_parameters()}
        fixed |= {
            f"{m}.{n}": "reads the attention pooling"
            for m in ("fc_norm", "head")
            for n, _ in getattr(model, m).named_parameters()
        }
        del fixed["attn_pool.kv.weight"]
    for name in ("head", "head_dist"):
        if f"{name}.bias" in dict(model.named_parameters()):
            fixed[f"{name}.bias"] = "one entry per class"
    terms += _head_terms(model, tokens)
    return Structure(
        family="vit",
        num_blocks=len(model.blocks),
        sites=tuple(sites),
        terms=tuple(terms),
        opaque=tuple(opaque),
        stream_roots={"embed": ("patch_embed.proj.weight", 0)},
        stream_gates={"embed": tuple(stream_gates)},
        fixed=fixed,
        branches=tuple(branches),
        pairs=tuple(pairs),
        exits=("attn_pool.kv",)
        if model.attn_pool is not None
        else tuple(name for name in ("head", "head_dist") if isinstance(getattr(model, name, None), nn.Linear)),
        notes=tuple(notes),
    )


def example_input(model: Any) -> tuple[int, int, int, int]:
    """Shape (B, C, H, W) of one input image."""
    return (1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)


def features(model: Any, images: Tensor) -> Tensor:
    """Pooled features (B, D) of a model without a classifier."""
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    return pooled if pooled.ndim == 2 else pooled[:, model.num_prefix_tokens :].mean(dim=1)


def stream(model: Any, images: Tensor) -> Tensor:
    """What enters the first branch, shape (B, N, D)."""
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))


def added(model: Any, branch: Branch, x: Tensor) -> Tensor:
    """What `branch` adds to the stream `x`, shape (B, N, D)."""
    block, attention = model.blocks[branch.block], branch.name.endswith("attn")
    module, norm = (block.attn, block.norm1) if attention else (block.mlp, block.norm2)
    if branch.post_norm:
        return norm(module(x))
    return (block.ls1 if attention else block.ls2)(module(norm(x)))


def leave(model: Any, x: Tensor) -> Tensor:
    """The network's output from the stream after its last branch."""
    return model.forward_head(model.norm(x))


def fold_(model: Any) -> None:
    """Move LayerScale into the layer before it; the function stays."""
    for block in model.blocks:
        for name, writer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            scale = getattr(block, name, None)  # a ResPostBlock has none
            if isinstance(scale, LayerScale):
                writer.weight.mul_(scale.gamma[:, None])
                if writer.bias is not None:
                    writer.bias.mul_(scale.gamma)
                scale.gamma.fill_(1.0)


def drop_blocks_(model: Any, gone: Collection[int]) -> None:
    """Take whole blocks out; those behind them move up."""
    model.blocks = nn.Sequential(*(block for i, block in enumerate(model.blocks) if i not in gone))
    left = [info for i, info in enumerate(model.feature_info) if i not in gone]
    model.feature_info = [info | {"module": f"blocks.{i}"} for i, info in enumerate(left)]


def sync_(model: Any, keep: Mapping[str, np.ndarray]) -> None:
    """Bring the modules' attributes in line with parameters that surgery has cut."""
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


def _check_block(i: int, block: Any) -> None:
    if not isinstance(block, Block | ResPostBlock):
        raise InputError(f"blocks.{i} is a {type(block).__name__}; supported: Block, ResPostBlock")
    if type(block.attn) not in (Attention, FreeAttention):
        raise InputError(f"blocks.{i}.attn is a {type(block.attn).__name__}; supported: timm's Attention")
    if not isinstance(block.mlp, Mlp | GluMlp | SwiGLU):
        raise InputError(f"blocks.{i}.mlp is a {type(block.mlp).__name__}; supported: Mlp, GluMlp, SwiGLU")


def _check_attn_pool(pool: Any) -> None:
    if not isinstance(pool, AttentionPoolLatent | FreePool) or pool.pos_embed is not None:
        raise InputError(f"attn_pool is a {type(pool).__name__}; supported: AttentionPoolLatent without positions")


def _opaque_attn_pool(pool: Any) -> OpaqueModule:
    return OpaqueModule(
        "attn_pool",
        (("attn_pool.kv.weight", 1),),
        (),
        pool.kv.weight.shape[1],
        pool.out_features,
        tokens_out=1,
    )


def _stem_terms(model: Any) -> list[Term]:
    conv = model.patch_embed.proj
    patches = model.patch_embed.num_patches
    per_channel = conv.weight[0].numel()
    extra = count_elements(
        conv.bias, model.cls_token, model.reg_token, getattr(model, "dist_token", None), model.pos_embed
    )
    return [
        Term(
            component="stem",
            sites=("embed",),
            params=per_channel + extra // conv.weight.shape[0],
            macs=per_channel * patches,
        ),
        Term(
            component="norm",
            sites=("embed",),
            params=count_elements(*model.norm_pre.parameters(), *model.patch_embed.norm.parameters())
            // conv.weight.shape[0],
        ),
    ]


def _head_terms(model: Any, tokens: int) -> list[Term]:
    norms = [*model.norm.parameters()] + ([] if model.attn_pool is not None else [*model.fc_norm.parameters()])
    terms = [Term(component="norm", sites=("embed",), params=count_elements(*norms) // model.embed_dim)]
    if model.attn_pool is not None:
        pool, width, length = model.attn_pool, model.attn_pool.out_features, model.attn_pool.latent_len
        inside = count_elements(*pool.parameters(), *model.fc_norm.parameters()) - pool.kv.weight.numel()
        products = count_elements(pool.q.weight, pool.proj.weight, pool.mlp.fc1.weight, pool.mlp.fc2.weight) * length
        terms += [
            Term(component="head", sites=("embed",), params=2 * width, macs=2 * width * tokens),
            Term(component="head", params=inside, macs=products + 2 * length * tokens * width),
        ]
    for head in (model.head, getattr(model, "head_dist", None)):
        if isinstance(head, nn.Linear):
            sites, wide = (("embed",), 1) if model.attn_pool is None else ((), head.in_features)
            terms.append(
                Term(component="head", sites=sites, params=head.out_features * wide, macs=head.out_features * wide)
            )
            terms.append(Term(component="head", params=count_elements(head.bias)))
    return terms


class _BlockProbe(nn.Identity):
    """Stands in for a block, so that timm builds a network's outside in milliseconds and shows its numbers."""

    def __init__(self, dim: int, num_heads: int, **kwargs: Any) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "patch_embed.proj.weight" in state and any(re.match(r"blocks\.\d+\.attn\.qkv\.weight", k) for k in state)


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """timm model arguments that the tensors' shapes tell: patch and input size, channels, classes.

    Args:
        img_size: the input size as far as it is known elsewhere; used where the shapes leave it open.

    Raises:
        InputError: the position embedding's grid is not square, and no input size is known.
    """
    weight = state["patch_embed.proj.weight"]
    patch_h, patch_w = weight.shape[2:]
    args: dict[str, Any] = {
        "in_chans": weight.shape[1],
        "patch_size": patch_h if patch_h == patch_w else (patch_h, patch_w),
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
    }
    if "pos_embed" not in state:
        return args
    length = state["pos_embed"].shape[1]
    tokens = [state[t].shape[1] for t in ("cls_token", "dist_token", "reg_token", "register_tokens") if t in state]
    # the class, distillation and register tokens may or may not have a position of their own
    for patches in (length - sum(tokens), length - 1, length):
        side = round(patches**0.5)
        if side * side == patches:
            return args | {"img_size": side * patch_h if patch_h == patch_w else (side * patch_h, side * patch_w)}
    if img_size is None:
        raise InputError(f"pos_embed has {length} entries, not a square grid; give the input size with --img-size")
    return args | {"img_size": img_size}


def depth_args(blocks: int) -> dict[str, Any]:
    """The timm model argument that sets the number of blocks."""
    return {"depth": blocks}


def to_timm_keys(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The state dict of an original release (DeiT-III, DINOv2, CLIP, ...) under timm's names."""
    return checkpoint_filter_fn(state, model, adapt_layer_scale=any("gamma_1" in k for k in state))


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """timm names of this family whose width, depth and patch size are those of the tensors -> native input size."""
    embed_dim, _, *patch = state["patch_embed.proj.weight"].shape
    depth = 1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k)))
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
