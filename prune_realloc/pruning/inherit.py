"""Weights of a trained EfficientViT, carried over to one of other widths.

Every dimension of every tensor has a map: for each new position the old one that it takes, or -1 for a fresh one. The
best units by score go first. A head's output is added to the next head's input channel by channel, so the units of V
that meet a channel of the stream follow that channel. Where all of a dimension is taken in its order, the numbers are
the source's; a network of the same widths computes what the source computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from timm.layers import resize_rel_pos_bias_table_levit
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name
from prune_realloc.families.efficientvit_msra import blocks, ffn_names
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_layers import ConvNorm

Scores = Mapping[str, np.ndarray]
Map = np.ndarray
"""New position -> old position, or -1."""


@torch.no_grad()
def inherit(source: EfficientVit, target: EfficientVit, scores: Scores) -> None:
    """Write into `target` what survives of `source`; what is new stays as it was initialised.

    Args:
        scores: of the source's sites, as an analysis has them.

    Raises:
        InputError: depth, heads, kernels or stem differ, so that there is nothing to carry over.
    """
    old, new = source.config, target.config
    for field, have, want in (
        ("depth", old.depth, new.depth),
        ("num_heads", [b.heads for b in old.blocks], [b.heads for b in new.blocks]),
        ("num_ffns", [b.num_ffns for b in old.blocks], [b.num_ffns for b in new.blocks]),
        ("kernels", [b.kernels for b in old.blocks], [b.kernels for b in new.blocks]),
        ("stem_strides", old.stem_strides, new.stem_strides),
        ("in_chans", old.in_chans, new.in_chans),
    ):
        if have != want:
            raise InputError(f"inherit: the source has {field} {have}, the new network {want}; they must be the same")
    for stage in range(len(old.depth)):
        own = {b.heads for b in old.blocks if b.stage == stage}
        if len(own) > 1:
            raise InputError(
                f"inherit: stage {stage} has blocks of {sorted(own)} heads, which divide its channels "
                "differently; they must be the same"
            )
    heads = [next(b.heads for b in old.blocks if b.stage == s) for s in range(len(old.depth))]
    streams = [
        _by_part(scores[site_name("embed", None, stage)], heads[stage], new.embed_dim[stage])
        for stage in range(len(old.depth))
    ]
    _stem(source, target, streams[0])
    for number, ((name, block), (_, fresh)) in enumerate(zip(blocks(source), blocks(target), strict=True)):
        stream = streams[old.blocks[number].stage]
        ffn = scores[site_name("ffn", number)].reshape(max(1, 2 * old.blocks[number].num_ffns), -1)
        for place, full in enumerate(ffn_names(name, block)):
            path = full.removeprefix(f"{name}.").removesuffix(".ffn.m")
            hidden = _best(ffn[place], new.blocks[number].ffn)
            _token_ffn(block.get_submodule(path), fresh.get_submodule(path), stream, hidden)
        attention: Any = block.get_submodule("mixer.m.attn")
        _attention(
            attention,
            fresh.get_submodule("mixer.m.attn"),
            stream,
            scores[site_name("qk", number)].reshape(attention.num_heads, -1),
            scores[site_name("v", number)].reshape(attention.num_heads, -1),
        )
    for stage, (before, after) in enumerate(pairwise(streams), start=1):
        _downsample(source.stages[stage].downsample, target.stages[stage].downsample, before, after)
    for exit_ in ("head", "head_dist"):
        theirs, mine = getattr(source, exit_), getattr(target, exit_)
        if theirs is not None and mine is not None and old.num_classes == new.num_classes and new.num_classes:
            _batch_norm(theirs.bn, mine.bn, streams[-1])
            _carry(theirs.linear.weight, mine.linear.weight, None, streams[-1])
            mine.linear.bias.copy_(theirs.linear.bias)


def _best(scores: np.ndarray, width: int) -> Map:
    """The `width` best units in their order; -1 behind them where there are not so many."""
    kept = np.sort(np.argsort(-scores, kind="stable")[:width])
    return np.concatenate([kept, np.full(width - len(kept), -1)])


def _by_part(scores: np.ndarray, heads: int, width: int) -> Map:
    """The same number of channels for each head."""
    parts = scores.reshape(heads, -1)
    maps = [_best(part, width // heads) for part in parts]
    return np.concatenate([np.where(m < 0, -1, m + i * parts.shape[1]) for i, m in enumerate(maps)])


def _values(scores: np.ndarray, meets: Map | None, width: int) -> Map:
    """Units of one head's V: those that are added to the next head's channels follow these, then the best others."""
    if meets is None:
        return _best(scores, width)
    aligned = np.where(meets < len(scores), meets, -1)[:width]
    rest = scores.copy()
    rest[aligned[aligned >= 0]] = -np.inf
    # a unit that met a channel which is gone goes with it, unless there is room
    more = _best(rest, width - len(aligned))
    more = np.where((more >= 0) & np.isin(more, aligned), -1, more)
    return np.concatenate([aligned, more])


def _carry(old: Tensor, new: Tensor, *maps: Map | None) -> None:
    """new[i, j, ..] = old[map_0[i], map_1[j], ..] where no map says -1; None is the whole dimension as it is."""
    to, where = [], []
    for dim in range(new.ndim):
        own = maps[dim] if dim < len(maps) else None
        taken = np.arange(min(new.shape[dim], old.shape[dim])) if own is None else own
        to.append(torch.as_tensor(np.flatnonzero(taken >= 0)))
        where.append(torch.as_tensor(taken[taken >= 0]))
    new[torch.meshgrid(*to, indexing="ij")] = old[torch.meshgrid(*where, indexing="ij")]


def _batch_norm(old: Any, new: Any, channels: Map) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _carry(getattr(old, name), getattr(new, name), channels)
    new.num_batches_tracked.copy_(old.num_batches_tracked)


def _conv(old: Any, new: Any, outputs: Map, inputs: Map | None) -> None:
    assert isinstance(old, ConvNorm)
    _carry(old.conv.weight, new.conv.weight, outputs, inputs)
    _batch_norm(old.bn, new.bn, outputs)


def _token_ffn(old: Any, new: Any, stream: Map, hidden: Map) -> None:
    _conv(old.dw.m, new.dw.m, stream, None)
    _conv(old.ffn.m.up, new.ffn.m.up, hidden, stream)
    _conv(old.ffn.m.down, new.ffn.m.down, stream, hidden)


def _attention(old: Any, new: Any, stream: Map, qk_scores: np.ndarray, v_scores: np.ndarray) -> None:
    H, part = old.num_heads, len(stream) // old.num_heads
    was = old.qkvs[0].conv.in_channels
    columns = []
    for head in range(H):
        own = stream[head * part : (head + 1) * part]
        local = np.where(own < 0, -1, own - head * was)
        qk = _best(qk_scores[head], new.qk_dim)
        following = stream[(head + 1) * part : (head + 2) * part]
        meets = np.where(following < 0, -1, following - (head + 1) * was) if head + 1 < H else None
        v = _values(v_scores[head], meets, new.v_dim)
        K = old.qk_dim
        rows = np.concatenate([qk, np.where(qk < 0, -1, qk + K), np.where(v < 0, -1, v + 2 * K)])
        _conv(old.qkvs[head], new.qkvs[head], rows, local)
        _conv(old.dws[head], new.dws[head], qk, None)
        # logits keep their size: the new network divides by the root of its own width
        for tensor in (new.dws[head].bn.weight, new.dws[head].bn.bias):
            tensor.mul_((new.qk_dim / K) ** 0.5)
        columns.append(np.where(v < 0, -1, v + head * old.v_dim))
    _conv(old.proj, new.proj, stream, np.concatenate(columns))
    biases = resize_rel_pos_bias_table_levit(old.attention_biases.T, (new.window**2, H))
    new.attention_biases.copy_(biases.T)


def _downsample(old: Any, new: Any, before: Map, after: Map) -> None:
    for side, stream in (("before", before), ("after", after)):
        theirs, mine = getattr(old, side), getattr(new, side)
        hidden = _best(_strength(theirs.ffn.m.up, theirs.ffn.m.down), mine.ffn.m.up.conv.out_channels)
        _token_ffn(theirs, mine, stream, hidden)
    hidden = _best(_strength(old.merge.expand, old.merge.reduce), new.merge.expand.conv.out_channels)
    _conv(old.merge.expand, new.merge.expand, hidden, before)
    _conv(old.merge.dw, new.merge.dw, hidden, None)
    _conv(old.merge.reduce, new.merge.reduce, after, hidden)
    squeeze = _best(old.merge.se.fc1.weight.flatten(1).norm(dim=1).numpy(), new.merge.se.fc1.out_channels)
    _carry(old.merge.se.fc1.weight, new.merge.se.fc1.weight, squeeze, hidden)
    _carry(old.merge.se.fc1.bias, new.merge.se.fc1.bias, squeeze)
    _carry(old.merge.se.fc2.weight, new.merge.se.fc2.weight, hidden, squeeze)
    _carry(old.merge.se.fc2.bias, new.merge.se.fc2.bias, hidden)


def _strength(into: Any, out: Any) -> np.ndarray:
    """Of hidden units that no site scores: the size of what goes in times that of what comes out."""
    return (into.conv.weight.flatten(1).norm(dim=1) * out.conv.weight.flatten(1).norm(dim=0)).numpy()


def _stem(source: Any, target: Any, stream: Map) -> None:
    inputs: Map | None = None
    layers = [
        (old, new)
        for old, new in zip(source.patch_embed, target.patch_embed, strict=True)
        if not isinstance(old, nn.ReLU)
    ]
    for (old, new), following in zip(layers, [*layers[1:], None], strict=True):
        if following is None:
            outputs = stream
        else:
            size = old.conv.weight.flatten(1).norm(dim=1) * following[0].conv.weight.transpose(0, 1).flatten(1).norm(
                dim=1
            )
            outputs = _best(size.numpy(), new.conv.out_channels)
        _conv(old, new, outputs, inputs)
        inputs = outputs
