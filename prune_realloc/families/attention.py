"""Attention and FFN of a timm ViT block: their sites, branches, pairs and what the dependency graph sees of them."""

# D embed, H heads, K q/k width per head, V value width per head, F ffn width

from __future__ import annotations

from typing import Any

import numpy as np
from timm.layers import Attention, GluMlp, SwiGLU
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from prune_realloc.core.structure import Branch, Gate, OpaqueModule, Pair, Site, Slice, site_name
from prune_realloc.models.free_attention import FreeAttention
from prune_realloc.models.free_window_attention import FreeWindowAttention

STREAM = site_name("embed", None)
"""The site of the one residual stream that all blocks share."""


def head_widths(attn: Any) -> tuple[int, int]:
    """(K, V) of one head."""
    if isinstance(attn, FreeAttention | FreeWindowAttention):
        return attn.qk_dim, attn.v_dim
    # timm's window attention has the width of its heads in the softmax scale only
    width = attn.head_dim if hasattr(attn, "head_dim") else round(attn.scale**-2)
    return width, width


def has_norm(module: nn.Module) -> bool:
    """False for the identity that timm puts where there is no norm."""
    return not isinstance(module, nn.Identity)


def has_module(parent: nn.Module, name: str) -> bool:
    """Is there a module of this name that does something?"""
    module = getattr(parent, name, None)
    return module is not None and has_norm(module)


def block_site(i: int, block: nn.Module, embed_dim: int) -> Site:
    """A whole block as one unit: its parameters, and what its two branches add to the stream."""
    every = np.arange(embed_dim)[None]
    slices = (Slice(f"blocks.{i}.{name}", 0, np.arange(len(p))[None]) for name, p in block.named_parameters())
    gates = (Gate(f"blocks.{i}.{name}", "output", every) for name in ("drop_path1", "drop_path2"))
    return Site("block", i, 1, tuple(slices), tuple(gates))


def block_branches(i: int, block: Any) -> list[Branch]:
    """The attention and the FFN."""
    gate = ("gate",) if has_module(block.attn, "gate") else ()
    first = ("fc1_g", "fc1_x") if isinstance(block.mlp, SwiGLU) else ("fc1",)
    found = []
    for module, axis, readers, writer in (("attn", "v", ("qkv", *gate), "proj"), ("mlp", "ffn", first, "fc2")):
        name = f"blocks.{i}.{module}"
        found.append(
            Branch(
                name=name,
                block=i,
                site=site_name(axis, i),
                stream=STREAM,
                readers=tuple(f"{name}.{reader}" for reader in readers),
                writer=f"{name}.{writer}",
                post_norm=isinstance(block, ResPostBlock),
            )
        )
    return found


def rotation_pairs(i: int, attn: Attention | FreeAttention) -> list[Pair]:
    """Q with K, unless a norm acts on them; V with proj, unless a norm or gate lies between."""
    _, qk, v = attention_sites(i, attn)
    found = []
    if not has_module(attn, "q_norm"):
        q, k = (tuple(Slice(s.parameter, s.dim, s.index[:, [side]]) for s in qk.slices) for side in (0, 1))
        found.append(Pair(qk.name, q, k, attn.num_heads))
    if not has_module(attn, "norm") and not has_module(attn, "gate"):
        found.append(Pair(v.name, v.slices[:-1], v.slices[-1:], attn.num_heads))
    return found


def attention_sites(i: int, attn: Attention | FreeAttention) -> tuple[Site, Site, Site]:
    """`heads`, `qk` and `v` of one block.

    Rows of qkv: all of q, then all of k, then all of v; inside each, head by head.
    """
    H, (K, V) = attn.num_heads, head_widths(attn)
    q_rows = np.arange(H * K)
    k_rows, v_rows = H * K + q_rows, 2 * H * K + np.arange(H * V)
    return _heads_site(i, attn, q_rows, k_rows, v_rows), _qk_site(i, attn, q_rows, k_rows), _v_site(i, attn, v_rows)


def _heads_site(
    i: int, attn: Attention | FreeAttention, q_rows: np.ndarray, k_rows: np.ndarray, v_rows: np.ndarray
) -> Site:
    H = attn.num_heads
    both = np.concatenate([q_rows.reshape(H, -1), k_rows.reshape(H, -1)], axis=1)
    slices = (*_layer_slices(f"blocks.{i}.attn.qkv", attn.qkv, 0, both), *_value_slices(i, attn, v_rows, H))
    return Site("heads", i, H, slices, (_value_gate(i, attn, v_rows, H),), note=_value_note(attn))


def _v_site(i: int, attn: Attention | FreeAttention, v_rows: np.ndarray) -> Site:
    units = len(v_rows)
    slices, gate = tuple(_value_slices(i, attn, v_rows, units)), _value_gate(i, attn, v_rows, units)
    return Site("v", i, units, slices, (gate,), groups=attn.num_heads, note=_value_note(attn))


def _behind_values(attn: nn.Module) -> list[str]:
    """What acts on the values of all heads before proj reads them."""
    return [layer for layer in ("norm", "gate") if has_module(attn, layer)]


def _value_slices(i: int, attn: Attention | FreeAttention, v_rows: np.ndarray, units: int) -> list[Slice]:
    """Everything that belongs to the values, cut into `units` equal runs."""
    name, rows, columns = f"blocks.{i}.attn", v_rows.reshape(units, -1), np.arange(len(v_rows)).reshape(units, -1)
    found = _layer_slices(f"{name}.qkv", attn.qkv, 0, rows)
    for layer in _behind_values(attn):
        found += _layer_slices(f"{name}.{layer}", getattr(attn, layer), 0, columns)
    return [*found, Slice(f"{name}.proj.weight", 1, columns)]


def _value_gate(i: int, attn: nn.Module, v_rows: np.ndarray, units: int) -> Gate:
    if _behind_values(attn):  # a value that is zero before a norm or gate is not without effect behind it
        return Gate(f"blocks.{i}.attn.proj", "input", np.arange(len(v_rows)).reshape(units, -1))
    return Gate(f"blocks.{i}.attn.qkv", "output", v_rows.reshape(units, -1))


def _value_note(attn: nn.Module) -> str:
    if "norm" not in _behind_values(attn):
        return ""
    return "a norm follows the values: cutting differs from masking by its statistics"


def _qk_site(i: int, attn: Attention | FreeAttention, q_rows: np.ndarray, k_rows: np.ndarray) -> Site:
    name, heads = f"blocks.{i}.attn", attn.num_heads
    if not has_module(attn, "q_norm"):
        both = np.stack([q_rows, k_rows], axis=1)
        # the logits are linear in q: switching q's channel off removes the product q_d k_d
        gate = Gate(f"{name}.qkv", "output", q_rows[:, None])
        return Site("qk", i, len(q_rows), tuple(_layer_slices(f"{name}.qkv", attn.qkv, 0, both)), (gate,), groups=heads)
    # the norm's weights are shared by the heads: unit d is dimension d of every head
    width = len(q_rows) // heads
    tied = np.concatenate([q_rows.reshape(heads, width).T, k_rows.reshape(heads, width).T], axis=1)
    shared = np.arange(width)[:, None]
    slices = [
        *_layer_slices(f"{name}.qkv", attn.qkv, 0, tied),
        *_layer_slices(f"{name}.q_norm", attn.q_norm, 0, shared),
        *_layer_slices(f"{name}.k_norm", attn.k_norm, 0, shared),
    ]
    note = "q/k norm: cutting differs from masking by its statistics"
    return Site("qk", i, width, tuple(slices), (Gate(f"{name}.q_norm", "output", shared),), note=note)


def ffn_site(i: int, mlp: Any) -> Site:
    """The hidden units of one block's FFN."""
    name, units = f"blocks.{i}.mlp", mlp.fc2.weight.shape[1]
    column = np.arange(units)[:, None]
    if isinstance(mlp, GluMlp):  # one fc1 with the rows of value and gate
        slices = _layer_slices(f"{name}.fc1", mlp.fc1, 0, np.concatenate([column, units + column], axis=1))
    else:
        layers = ("fc1_g", "fc1_x") if isinstance(mlp, SwiGLU) else ("fc1",)
        slices = [s for layer in layers for s in _layer_slices(f"{name}.{layer}", getattr(mlp, layer), 0, column)]
    note = ""
    if has_norm(mlp.norm):
        slices += _layer_slices(f"{name}.norm", mlp.norm, 0, column)
        note = "a norm inside the FFN: cutting differs from masking by its statistics"
    slices.append(Slice(f"{name}.fc2.weight", 1, column))
    return Site("ffn", i, units, tuple(slices), (Gate(f"{name}.fc2", "input", column),), note=note)


def _layer_slices(name: str, module: nn.Module, dim: int, index: np.ndarray) -> list[Slice]:
    """Slices of a layer's weight along `dim`, and of its bias where the dimension is the output."""
    found = []
    if module.weight is not None:  # a norm may have no affine part
        found.append(Slice(f"{name}.weight", dim, index))
    if dim == 0 and getattr(module, "bias", None) is not None:
        found.append(Slice(f"{name}.bias", 0, index))
    return found


def opaque_attention(name: str, attn: Attention | FreeAttention) -> OpaqueModule:
    """What the dependency graph sees of an attention."""
    reads = [(f"{name}.qkv.weight", 1)]
    if has_module(attn, "gate"):
        reads.append((f"{name}.gate.weight", 1))
    writes = [(f"{name}.proj.weight", 0)]
    if attn.proj.bias is not None:
        writes.append((f"{name}.proj.bias", 0))
    return OpaqueModule(name, tuple(reads), tuple(writes), attn.qkv.weight.shape[1], attn.proj.weight.shape[0])
