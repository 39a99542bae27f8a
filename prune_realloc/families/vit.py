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
import torch.nn.functional as F
from timm.layers import Attention, AttentionPoolLatent, GluMlp, LayerScale, Mlp, SwiGLU
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from prune_realloc.cost import Term
from prune_realloc.errors import InputError
from prune_realloc.structure import Branch, Gate, OpaqueModule, Pair, Site, Slice, Structure

TIMM_MODULES = ("deit", "vision_transformer")
"""Where timm defines the networks of this family."""


ALIASES = ()
"""Every network of this family is built under its own name."""


def adopt(model: nn.Module) -> nn.Module:
    """timm's networks are read as they are."""
    return model


class FreeAttention(nn.Module):
    """timm's `Attention` with q/k and v widths of their own, and the softmax scale of the network it was cut from.

    The parameters keep timm's names; `qkv` holds the rows of q (H * K), of k (H * K) and of v (H * V).
    """

    def __init__(self, source: Any, num_heads: int, qk_dim: int, v_dim: int) -> None:
        super().__init__()
        self.num_heads, self.qk_dim, self.v_dim = num_heads, qk_dim, v_dim
        self.scale = source.scale
        self.qkv, self.proj = source.qkv, source.proj
        self.q_norm, self.k_norm, self.norm = source.q_norm, source.k_norm, source.norm
        self.gate = getattr(source, "gate", None)
        self.attn_drop, self.proj_drop = source.attn_drop, source.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        B, N, _ = x.shape
        H, K, V = self.num_heads, self.qk_dim, self.v_dim
        q, k, v = self.qkv(x).split([H * K, H * K, H * V], dim=-1)
        q = self.q_norm(q.reshape(B, N, H, K).transpose(1, 2))
        k = self.k_norm(k.reshape(B, N, H, K).transpose(1, 2))
        v = v.reshape(B, N, H, V).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            q, k, v,
            attn_mask=attn_mask,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
        )  # fmt: skip
        out = self.norm(out.transpose(1, 2).reshape(B, N, H * V))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))


class FreePool(nn.Module):
    """timm's `AttentionPoolLatent` over tokens that are narrower than what it puts out."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = source.num_heads, source.head_dim, source.scale
        self.latent_len, self.out_features, self.pool = source.latent_len, source.out_features, source.pool
        self.pos_embed, self.latent = None, source.latent
        self.q, self.kv, self.proj = source.q, source.kv, source.proj
        self.q_norm, self.k_norm, self.norm = source.q_norm, source.k_norm, source.norm
        self.mlp, self.proj_drop = source.mlp, source.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        B, N, _ = x.shape
        H, K = self.num_heads, self.head_dim
        q = self.q(self.latent.expand(B, -1, -1)).reshape(B, self.latent_len, H, K).transpose(1, 2)
        k, v = self.kv(x).reshape(B, N, 2, H, K).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=attn_mask, scale=self.scale)
        out = self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, self.latent_len, H * K)))
        if self.mlp is not None:
            out = out + self.mlp(self.norm(out))
        if self.pool == "token":
            return out[:, 0]
        return out.mean(1) if self.pool == "avg" else out


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
        sites += [_block_site(i, block, model.embed_dim), *_attention_sites(i, block.attn), _ffn_site(i, block.mlp)]
        pairs += _pairs(i, block.attn, sites[-3], sites[-2])
        branches += _branches(i, block)
        terms += _block_terms(i, block, tokens)
        opaque.append(_opaque_attention(f"{prefix}.attn", block.attn))
        stream_gates += [
            Gate(f"{prefix}.{name}", "output", np.arange(model.embed_dim)[:, None])
            for name in ("drop_path1", "drop_path2")
        ]
    if _has_norm(model.blocks[0].attn.q_norm):
        notes.append("q/k norm: its weights are shared by the heads, so a qk unit is one dimension of all heads, and "
                     "Q/K are not rotated")  # fmt: skip
    if _has_module(model.blocks[0].attn, "norm") or _has_module(model.blocks[0].attn, "gate"):
        notes.append("a norm or gate lies between V and proj, so V is not rotated")
    fixed: dict[str, str] = {}
    if model.attn_pool is not None:
        _check_attn_pool(model.attn_pool)
        opaque.append(_opaque_attn_pool(model.attn_pool))
        fixed |= {f"attn_pool.{n}": "attention pooling" for n, _ in model.attn_pool.named_parameters()}
        fixed |= {f"{m}.{n}": "reads the attention pooling" for m in ("fc_norm", "head")
                  for n, _ in getattr(model, m).named_parameters()}  # fmt: skip
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
        if (heads, qk_dim, v_dim) != (attn.num_heads, *_head_widths(attn)):
            block.attn = FreeAttention(attn, heads, qk_dim, v_dim).train(attn.training)
    embed_dim = model.patch_embed.proj.weight.shape[0]
    if model.attn_pool is not None and embed_dim != model.embed_dim:
        model.attn_pool = FreePool(model.attn_pool).train(model.attn_pool.training)
    model.embed_dim = embed_dim
    model.num_features = model.head_hidden_size = embed_dim if model.attn_pool is None else model.attn_pool.out_features
    model.feature_info = [info | {"num_chs": embed_dim} for info in model.feature_info]


def _head_widths(attn: Any) -> tuple[int, int]:
    """(K, V) of one head."""
    if isinstance(attn, FreeAttention):
        return attn.qk_dim, attn.v_dim
    return attn.head_dim, attn.head_dim


def _check_block(i: int, block: Any) -> None:
    if not isinstance(block, Block | ResPostBlock):
        raise InputError(f"blocks.{i} is a {type(block).__name__}; supported: Block, ResPostBlock")
    if type(block.attn) not in (Attention, FreeAttention):
        raise InputError(f"blocks.{i}.attn is a {type(block.attn).__name__}; supported: timm's Attention")
    if not isinstance(block.mlp, Mlp | GluMlp | SwiGLU):
        raise InputError(f"blocks.{i}.mlp is a {type(block.mlp).__name__}; supported: Mlp, GluMlp, SwiGLU")


def _has_norm(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity)


def _slices(name: str, module: nn.Module, dim: int, index: np.ndarray) -> list[Slice]:
    """Slices of a layer's weight along `dim`, and of its bias where the dimension is the output."""
    found = []
    if module.weight is not None:  # a norm may have no affine part
        found.append(Slice(f"{name}.weight", dim, index))
    if dim == 0 and getattr(module, "bias", None) is not None:
        found.append(Slice(f"{name}.bias", 0, index))
    return found


def _block_site(i: int, block: Any, embed_dim: int) -> Site:
    every = np.arange(embed_dim)[None]
    slices = (Slice(f"blocks.{i}.{name}", 0, np.arange(len(p))[None]) for name, p in block.named_parameters())
    gates = (Gate(f"blocks.{i}.{name}", "output", every) for name in ("drop_path1", "drop_path2"))
    return Site("block", i, 1, tuple(slices), tuple(gates))


def _branches(i: int, block: Any) -> list[Branch]:
    post = isinstance(block, ResPostBlock)
    first = ("fc1_g", "fc1_x") if isinstance(block.mlp, SwiGLU) else ("fc1",)
    gate = ("gate",) if _has_module(block.attn, "gate") else ()
    return [
        Branch(f"blocks.{i}.{name}", i, f"blocks.{i}.{axis}", tuple(f"blocks.{i}.{name}.{r}" for r in readers),
               f"blocks.{i}.{name}.{writer}", post)
        for name, axis, readers, writer in (("attn", "v", ("qkv", *gate), "proj"), ("mlp", "ffn", first, "fc2"))
    ]  # fmt: skip


def _pairs(i: int, attn: Any, qk: Site, v: Site) -> list[Pair]:
    """Q with K, unless a norm acts on them; V with proj, unless a norm or gate lies between."""
    found = []
    if not _has_norm(attn.q_norm):
        q, k = (tuple(Slice(s.parameter, s.dim, s.index[:, [side]]) for s in qk.slices) for side in (0, 1))
        found.append(Pair(qk.name, q, k, attn.num_heads))
    if not _has_module(attn, "norm") and not _has_module(attn, "gate"):
        found.append(Pair(v.name, v.slices[:-1], v.slices[-1:], attn.num_heads))
    return found


def _attention_sites(i: int, attn: Any) -> list[Site]:
    name, heads, (qk, v) = f"blocks.{i}.attn", attn.num_heads, _head_widths(attn)
    # rows of qkv: all of q, then all of k, then all of v; inside each, head by head
    q_rows = np.arange(heads * qk)
    k_rows = heads * qk + q_rows
    v_rows = 2 * heads * qk + np.arange(heads * v)
    v_columns = np.arange(heads * v)
    after = [layer for layer in ("norm", "gate") if _has_module(attn, layer)]

    def value_slices(units: int) -> list[Slice]:
        rows, columns = v_rows.reshape(units, -1), v_columns.reshape(units, -1)
        found = _slices(f"{name}.qkv", attn.qkv, 0, rows)
        for layer in after:
            found += _slices(f"{name}.{layer}", getattr(attn, layer), 0, columns)
        return [*found, Slice(f"{name}.proj.weight", 1, columns)]

    note = "a norm follows the values: cutting differs from masking by its statistics" if "norm" in after else ""
    v_site = Site(
        "v", i, heads * v, tuple(value_slices(heads * v)),
        (Gate(f"{name}.qkv", "output", v_rows[:, None]),) if not after else
        (Gate(f"{name}.proj", "input", v_columns[:, None]),), groups=heads, note=note,
    )  # fmt: skip
    head_rows = np.concatenate([q_rows.reshape(heads, -1), k_rows.reshape(heads, -1)], axis=1)
    heads_site = Site(
        "heads", i, heads,
        (*_slices(f"{name}.qkv", attn.qkv, 0, head_rows), *value_slices(heads)),
        tuple(Gate(g.module, g.side, g.index.reshape(heads, -1)) for g in v_site.gates), note=note,
    )  # fmt: skip
    return [heads_site, _qk_site(i, attn, q_rows, k_rows), v_site]


def _qk_site(i: int, attn: Any, q_rows: np.ndarray, k_rows: np.ndarray) -> Site:
    name, heads = f"blocks.{i}.attn", attn.num_heads
    if not _has_norm(attn.q_norm):
        both = np.stack([q_rows, k_rows], axis=1)
        # the logits are linear in q: switching q's channel off removes the product q_d k_d
        gate = Gate(f"{name}.qkv", "output", q_rows[:, None])
        return Site("qk", i, len(q_rows), tuple(_slices(f"{name}.qkv", attn.qkv, 0, both)), (gate,), groups=heads)
    # the norm's weights are shared by the heads: unit d is dimension d of every head
    width = len(q_rows) // heads
    tied = np.concatenate([q_rows.reshape(heads, width).T, k_rows.reshape(heads, width).T], axis=1)
    shared = np.arange(width)[:, None]
    slices = [
        *_slices(f"{name}.qkv", attn.qkv, 0, tied),
        *_slices(f"{name}.q_norm", attn.q_norm, 0, shared),
        *_slices(f"{name}.k_norm", attn.k_norm, 0, shared),
    ]
    note = "q/k norm: cutting differs from masking by its statistics"
    return Site("qk", i, width, tuple(slices), (Gate(f"{name}.q_norm", "output", shared),), note=note)


def _ffn_site(i: int, mlp: Any) -> Site:
    name = f"blocks.{i}.mlp"
    units = mlp.fc2.weight.shape[1]
    column = np.arange(units)[:, None]
    if isinstance(mlp, GluMlp):  # one fc1 with the rows of value and gate
        slices = _slices(f"{name}.fc1", mlp.fc1, 0, np.concatenate([column, units + column], axis=1))
    elif isinstance(mlp, SwiGLU):
        slices = _slices(f"{name}.fc1_g", mlp.fc1_g, 0, column) + _slices(f"{name}.fc1_x", mlp.fc1_x, 0, column)
    else:
        slices = _slices(f"{name}.fc1", mlp.fc1, 0, column)
    note = ""
    if _has_norm(mlp.norm):
        slices += _slices(f"{name}.norm", mlp.norm, 0, column)
        note = "a norm inside the FFN: cutting differs from masking by its statistics"
    slices.append(Slice(f"{name}.fc2.weight", 1, column))
    return Site("ffn", i, units, tuple(slices), (Gate(f"{name}.fc2", "input", column),), note=note)


def _has_module(parent: Any, name: str) -> bool:
    module = getattr(parent, name, None)
    return module is not None and _has_norm(module)


def _opaque_attention(name: str, attn: Any) -> OpaqueModule:
    reads = [(f"{name}.qkv.weight", 1)]
    if _has_module(attn, "gate"):
        reads.append((f"{name}.gate.weight", 1))
    writes = [(f"{name}.proj.weight", 0)]
    if attn.proj.bias is not None:
        writes.append((f"{name}.proj.bias", 0))
    return OpaqueModule(name, tuple(reads), tuple(writes), attn.qkv.weight.shape[1], attn.proj.weight.shape[0])


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


def _numel(*tensors: Tensor | None) -> int:
    return sum(t.numel() for t in tensors if t is not None)


def _stem_terms(model: Any) -> list[Term]:
    conv = model.patch_embed.proj
    patches = model.patch_embed.num_patches
    per_channel = conv.weight[0].numel()
    extra = _numel(conv.bias, model.cls_token, model.reg_token, getattr(model, "dist_token", None), model.pos_embed)
    return [
        Term(component="stem", sites=("embed",), params=per_channel + extra // conv.weight.shape[0],
             macs=per_channel * patches),
        Term(component="norm", sites=("embed",),
             params=_numel(*model.norm_pre.parameters(), *model.patch_embed.norm.parameters()) // conv.weight.shape[0]),
    ]  # fmt: skip


def _block_terms(i: int, block: Any, tokens: int) -> list[Term]:
    N, attn, mlp = tokens, block.attn, block.mlp
    whole = f"blocks.{i}"  # 1, or 0 when the block is gone
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    values = 2 if _has_module(attn, "gate") else 1  # a gated attention has one more projection of V's size
    bias = int(attn.qkv.bias is not None)
    matrices = 3 if isinstance(mlp, GluMlp | SwiGLU) else 2
    hidden = next(m for m in (getattr(mlp, "fc1", None), getattr(mlp, "fc1_x", None)) if m is not None)
    embed_dim = attn.qkv.weight.shape[1]
    per_channel = _numel(*block.norm1.parameters(), *block.norm2.parameters(),
                         *_layer_scale(block, "ls1"), *_layer_scale(block, "ls2")) // embed_dim  # fmt: skip
    return [
        Term(component="qk", sites=("embed", heads, qk), params=2, macs=2 * N),
        Term(component="qk", sites=(heads, qk), params=2 * bias, macs=N * N),
        Term(component="v", sites=("embed", heads, v), params=values, macs=values * N),
        Term(component="v", sites=(heads, v), params=values * bias, macs=N * N),
        Term(component="proj", sites=("embed", heads, v), params=1, macs=N),
        Term(component="proj", sites=("embed", whole), params=int(attn.proj.bias is not None)),
        Term(component="ffn", sites=("embed", ffn), params=matrices, macs=matrices * N),
        Term(component="ffn", sites=(ffn,), params=(matrices - 1) * int(hidden.bias is not None)),
        Term(component="ffn", sites=("embed", whole), params=int(mlp.fc2.bias is not None)),
        Term(component="norm", sites=("embed", whole), params=per_channel),
        Term(component="norm", sites=(qk,), params=2 * len(list(attn.q_norm.parameters()))),
        Term(component="norm", sites=(heads, v), params=len(list(attn.norm.parameters()))),
        Term(component="norm", sites=(ffn,), params=len(list(mlp.norm.parameters()))),
    ]


def _layer_scale(block: Any, name: str) -> list[Tensor]:
    module = getattr(block, name, None)  # a ResPostBlock has none
    return [] if module is None else list(module.parameters())


def _head_terms(model: Any, tokens: int) -> list[Term]:
    norms = [*model.norm.parameters()] + ([] if model.attn_pool is not None else [*model.fc_norm.parameters()])
    terms = [Term(component="norm", sites=("embed",), params=_numel(*norms) // model.embed_dim)]
    if model.attn_pool is not None:
        pool, width, length = model.attn_pool, model.attn_pool.out_features, model.attn_pool.latent_len
        inside = _numel(*pool.parameters(), *model.fc_norm.parameters()) - pool.kv.weight.numel()
        products = _numel(pool.q.weight, pool.proj.weight, pool.mlp.fc1.weight, pool.mlp.fc2.weight) * length
        terms += [
            Term(component="head", sites=("embed",), params=2 * width, macs=2 * width * tokens),
            Term(component="head", params=inside, macs=products + 2 * length * tokens * width),
        ]
    for head in (model.head, getattr(model, "head_dist", None)):
        if isinstance(head, nn.Linear):
            sites, wide = (("embed",), 1) if model.attn_pool is None else ((), head.in_features)
            terms.append(Term(component="head", sites=sites, params=head.out_features * wide,
                              macs=head.out_features * wide))  # fmt: skip
            terms.append(Term(component="head", params=_numel(head.bias)))
    return terms


# -- from a checkpoint's tensors to a timm name ---------------------------------------------------------------


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
