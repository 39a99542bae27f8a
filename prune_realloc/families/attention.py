"""Attention and FFN of a timm ViT block: sites, slices, cost, branches and pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from timm.layers import GluMlp, SwiGLU
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import Branch, Gate, OpaqueModule, Pair, Site, Slice
from prune_realloc.models.free_attention import FreeAttention


def head_widths(attn: Any) -> tuple[int, int]:
    """(K, V) of one head."""
    if isinstance(attn, FreeAttention):
        return attn.qk_dim, attn.v_dim
    return attn.head_dim, attn.head_dim


def has_norm(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity)


def layer_slices(name: str, module: nn.Module, dim: int, index: np.ndarray) -> list[Slice]:
    """Slices of a layer's weight along `dim`, and of its bias where the dimension is the output."""
    found = []
    if module.weight is not None:  # a norm may have no affine part
        found.append(Slice(f"{name}.weight", dim, index))
    if dim == 0 and getattr(module, "bias", None) is not None:
        found.append(Slice(f"{name}.bias", 0, index))
    return found


def block_site(i: int, block: Any, embed_dim: int) -> Site:
    every = np.arange(embed_dim)[None]
    slices = (Slice(f"blocks.{i}.{name}", 0, np.arange(len(p))[None]) for name, p in block.named_parameters())
    gates = (Gate(f"blocks.{i}.{name}", "output", every) for name in ("drop_path1", "drop_path2"))
    return Site("block", i, 1, tuple(slices), tuple(gates))


def block_branches(i: int, block: Any) -> list[Branch]:
    post = isinstance(block, ResPostBlock)
    first = ("fc1_g", "fc1_x") if isinstance(block.mlp, SwiGLU) else ("fc1",)
    gate = ("gate",) if has_module(block.attn, "gate") else ()
    return [
        Branch(
            f"blocks.{i}.{name}",
            i,
            f"blocks.{i}.{axis}",
            tuple(f"blocks.{i}.{name}.{r}" for r in readers),
            f"blocks.{i}.{name}.{writer}",
            post,
        )
        for name, axis, readers, writer in (("attn", "v", ("qkv", *gate), "proj"), ("mlp", "ffn", first, "fc2"))
    ]


def rotation_pairs(i: int, attn: Any, qk: Site, v: Site) -> list[Pair]:
    """Q with K, unless a norm acts on them; V with proj, unless a norm or gate lies between."""
    found = []
    if not has_norm(attn.q_norm):
        q, k = (tuple(Slice(s.parameter, s.dim, s.index[:, [side]]) for s in qk.slices) for side in (0, 1))
        found.append(Pair(qk.name, q, k, attn.num_heads))
    if not has_module(attn, "norm") and not has_module(attn, "gate"):
        found.append(Pair(v.name, v.slices[:-1], v.slices[-1:], attn.num_heads))
    return found


def attention_sites(i: int, attn: Any) -> list[Site]:
    name, heads, (qk, v) = f"blocks.{i}.attn", attn.num_heads, head_widths(attn)
    # rows of qkv: all of q, then all of k, then all of v; inside each, head by head
    q_rows = np.arange(heads * qk)
    k_rows = heads * qk + q_rows
    v_rows = 2 * heads * qk + np.arange(heads * v)
    v_columns = np.arange(heads * v)
    after = [layer for layer in ("norm", "gate") if has_module(attn, layer)]

    def value_slices(units: int) -> list[Slice]:
        rows, columns = v_rows.reshape(units, -1), v_columns.reshape(units, -1)
        found = layer_slices(f"{name}.qkv", attn.qkv, 0, rows)
        for layer in after:
            found += layer_slices(f"{name}.{layer}", getattr(attn, layer), 0, columns)
        return [*found, Slice(f"{name}.proj.weight", 1, columns)]

    note = "a norm follows the values: cutting differs from masking by its statistics" if "norm" in after else ""
    v_site = Site(
        "v",
        i,
        heads * v,
        tuple(value_slices(heads * v)),
        (Gate(f"{name}.qkv", "output", v_rows[:, None]),)
        if not after
        else (Gate(f"{name}.proj", "input", v_columns[:, None]),),
        groups=heads,
        note=note,
    )
    head_rows = np.concatenate([q_rows.reshape(heads, -1), k_rows.reshape(heads, -1)], axis=1)
    heads_site = Site(
        "heads",
        i,
        heads,
        (*layer_slices(f"{name}.qkv", attn.qkv, 0, head_rows), *value_slices(heads)),
        tuple(Gate(g.module, g.side, g.index.reshape(heads, -1)) for g in v_site.gates),
        note=note,
    )
    return [heads_site, _qk_site(i, attn, q_rows, k_rows), v_site]


def _qk_site(i: int, attn: Any, q_rows: np.ndarray, k_rows: np.ndarray) -> Site:
    name, heads = f"blocks.{i}.attn", attn.num_heads
    if not has_norm(attn.q_norm):
        both = np.stack([q_rows, k_rows], axis=1)
        # the logits are linear in q: switching q's channel off removes the product q_d k_d
        gate = Gate(f"{name}.qkv", "output", q_rows[:, None])
        return Site("qk", i, len(q_rows), tuple(layer_slices(f"{name}.qkv", attn.qkv, 0, both)), (gate,), groups=heads)
    # the norm's weights are shared by the heads: unit d is dimension d of every head
    width = len(q_rows) // heads
    tied = np.concatenate([q_rows.reshape(heads, width).T, k_rows.reshape(heads, width).T], axis=1)
    shared = np.arange(width)[:, None]
    slices = [
        *layer_slices(f"{name}.qkv", attn.qkv, 0, tied),
        *layer_slices(f"{name}.q_norm", attn.q_norm, 0, shared),
        *layer_slices(f"{name}.k_norm", attn.k_norm, 0, shared),
    ]
    note = "q/k norm: cutting differs from masking by its statistics"
    return Site("qk", i, width, tuple(slices), (Gate(f"{name}.q_norm", "output", shared),), note=note)


def ffn_site(i: int, mlp: Any) -> Site:
    name = f"blocks.{i}.mlp"
    units = mlp.fc2.weight.shape[1]
    column = np.arange(units)[:, None]
    if isinstance(mlp, GluMlp):  # one fc1 with the rows of value and gate
        slices = layer_slices(f"{name}.fc1", mlp.fc1, 0, np.concatenate([column, units + column], axis=1))
    elif isinstance(mlp, SwiGLU):
        slices = layer_slices(f"{name}.fc1_g", mlp.fc1_g, 0, column) + layer_slices(
            f"{name}.fc1_x", mlp.fc1_x, 0, column
        )
    else:
        slices = layer_slices(f"{name}.fc1", mlp.fc1, 0, column)
    note = ""
    if has_norm(mlp.norm):
        slices += layer_slices(f"{name}.norm", mlp.norm, 0, column)
        note = "a norm inside the FFN: cutting differs from masking by its statistics"
    slices.append(Slice(f"{name}.fc2.weight", 1, column))
    return Site("ffn", i, units, tuple(slices), (Gate(f"{name}.fc2", "input", column),), note=note)


def has_module(parent: Any, name: str) -> bool:
    module = getattr(parent, name, None)
    return module is not None and has_norm(module)


def opaque_attention(name: str, attn: Any) -> OpaqueModule:
    reads = [(f"{name}.qkv.weight", 1)]
    if has_module(attn, "gate"):
        reads.append((f"{name}.gate.weight", 1))
    writes = [(f"{name}.proj.weight", 0)]
    if attn.proj.bias is not None:
        writes.append((f"{name}.proj.bias", 0))
    return OpaqueModule(name, tuple(reads), tuple(writes), attn.qkv.weight.shape[1], attn.proj.weight.shape[0])


def count_elements(*tensors: Tensor | None) -> int:
    return sum(t.numel() for t in tensors if t is not None)


def block_terms(i: int, block: Any, tokens: int) -> list[Term]:
    N, attn, mlp = tokens, block.attn, block.mlp
    whole = f"blocks.{i}"  # 1, or 0 when the block is gone
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    values = 2 if has_module(attn, "gate") else 1  # a gated attention has one more projection of V's size
    bias = int(attn.qkv.bias is not None)
    matrices = 3 if isinstance(mlp, GluMlp | SwiGLU) else 2
    hidden = next(m for m in (getattr(mlp, "fc1", None), getattr(mlp, "fc1_x", None)) if m is not None)
    embed_dim = attn.qkv.weight.shape[1]
    per_channel = (
        count_elements(
            *block.norm1.parameters(),
            *block.norm2.parameters(),
            *_layer_scale(block, "ls1"),
            *_layer_scale(block, "ls2"),
        )
        // embed_dim
    )
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
