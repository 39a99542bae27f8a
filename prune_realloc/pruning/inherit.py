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
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_layers import ConvNorm, NormLinear

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
    _check_alike(old, new)
    heads = _heads_of_stages(old)
    streams = [
        _by_part(scores[site_name("embed", None, stage)], heads[stage], new.embed_dim[stage])
        for stage in range(len(old.depth))
    ]
    _stem(source, target, streams[0])
    for number, ((name, block), (_, fresh)) in enumerate(zip(blocks(source), blocks(target), strict=True)):
        stream = streams[old.blocks[number].stage]
        _ffns(name, block, fresh, stream, scores[site_name("ffn", number)], new.blocks[number].ffn)
        attention, other = (each.get_submodule("mixer.m.attn") for each in (block, fresh))
        qk, v = (scores[site_name(axis, number)].reshape(old.blocks[number].heads, -1) for axis in ("qk", "v"))
        _attention(attention, other, stream, qk, v)
    for stage, (before, after) in enumerate(pairwise(streams), start=1):
        down = f"stages.{stage}.downsample"
        _downsample(source.get_submodule(down), target.get_submodule(down), before, after)
    if old.num_classes == new.num_classes:
        _classifiers(source, target, streams[-1])


def _check_alike(old: EfficientVitConfig, new: EfficientVitConfig) -> None:
    """Raises an InputError where one network has what the other has not."""
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


def _heads_of_stages(config: EfficientVitConfig) -> list[int]:
    """Into how many parts the blocks of each stage divide its channels."""
    found: list[int] = []
    for stage in range(len(config.depth)):
        heads = {block.heads for block in config.blocks if block.stage == stage}
        if len(heads) > 1:
            raise InputError(
                f"inherit: stage {stage} has blocks of {sorted(heads)} heads, which divide its channels "
                "differently; they must be the same"
            )
        found += heads
    return found


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


def _conv(old: ConvNorm, new: ConvNorm, outputs: Map, inputs: Map | None) -> None:
    """A convolution with its batch norm."""
    _carry(old.conv.weight, new.conv.weight, outputs, inputs)
    _batch_norm(old.bn, new.bn, outputs)


def _ffns(name: str, old: nn.Module, new: nn.Module, stream: Map, scores: np.ndarray, width: int) -> None:
    """All FFNs of a block, each with the units that are best in it."""
    names = ffn_names(name, old)
    for full, own in zip(names, scores.reshape(len(names), -1), strict=True):
        path = full.removeprefix(f"{name}.").removesuffix(".ffn.m")
        _token_ffn(old.get_submodule(path), new.get_submodule(path), stream, _best(own, width))


def _token_ffn(old: Any, new: Any, stream: Map, hidden: Map) -> None:
    _conv(old.dw.m, new.dw.m, stream, None)
    _conv(old.ffn.m.up, new.ffn.m.up, hidden, stream)
    _conv(old.ffn.m.down, new.ffn.m.down, stream, hidden)


def _attention(old: Any, new: Any, stream: Map, qk_scores: np.ndarray, v_scores: np.ndarray) -> None:
    """One cascade; `qk_scores` and `v_scores` have one row for each head."""
    H, K, V = old.num_heads, old.qk_dim, old.v_dim
    parts = _head_parts(stream, H, old.qkvs[0].conv.in_channels)
    columns = []
    for head, (part, following) in enumerate(zip(parts, [*parts[1:], None], strict=True)):
        qk = _best(qk_scores[head], new.qk_dim)
        v = _values(v_scores[head], following, new.v_dim)
        rows = np.concatenate([qk, _shifted(qk, K), _shifted(v, 2 * K)])
        _conv(old.qkvs[head], new.qkvs[head], rows, part)
        _conv(old.dws[head], new.dws[head], qk, None)
        # logits keep their size: the new network divides by the root of its own width
        for tensor in (new.dws[head].bn.weight, new.dws[head].bn.bias):
            tensor.mul_((new.qk_dim / K) ** 0.5)
        columns.append(_shifted(v, head * V))
    _conv(old.proj, new.proj, stream, np.concatenate(columns))
    biases = resize_rel_pos_bias_table_levit(old.attention_biases.T, (new.window**2, H))
    new.attention_biases.copy_(biases.T)


def _head_parts(stream: Map, heads: int, width: int) -> list[Map]:
    """The channels that each head reads, counted from the first of its `width` channels in the source."""
    return [_shifted(part, -head * width) for head, part in enumerate(stream.reshape(heads, -1))]


def _shifted(units: Map, by: int) -> Map:
    """The same units elsewhere in the source; fresh ones stay fresh."""
    return np.where(units < 0, -1, units + by)


def _downsample(old: Any, new: Any, before: Map, after: Map) -> None:
    """The patch merging between two streams, with the FFNs before and after it."""
    for side, stream in (("before", before), ("after", after)):
        theirs, mine = getattr(old, side), getattr(new, side)
        hidden = _best(_strength(theirs.ffn.m.up, theirs.ffn.m.down), mine.ffn.m.up.conv.out_channels)
        _token_ffn(theirs, mine, stream, hidden)
    _patch_merging(old.merge, new.merge, before, after)


def _patch_merging(old: Any, new: Any, before: Map, after: Map) -> None:
    hidden = _best(_strength(old.expand, old.reduce), new.expand.conv.out_channels)
    _conv(old.expand, new.expand, hidden, before)
    _conv(old.dw, new.dw, hidden, None)
    _conv(old.reduce, new.reduce, after, hidden)
    squeeze = _best(old.se.fc1.weight.flatten(1).norm(dim=1).numpy(), new.se.fc1.out_channels)
    for theirs, mine, outputs, inputs in (
        (old.se.fc1, new.se.fc1, squeeze, hidden),
        (old.se.fc2, new.se.fc2, hidden, squeeze),
    ):
        _carry(theirs.weight, mine.weight, outputs, inputs)
        _carry(theirs.bias, mine.bias, outputs)


def _classifiers(source: EfficientVit, target: EfficientVit, stream: Map) -> None:
    """Those that both networks have, of the same classes."""
    for name in ("head", "head_dist"):
        old, new = getattr(source, name), getattr(target, name)
        if isinstance(old, NormLinear) and isinstance(new, NormLinear):
            _batch_norm(old.bn, new.bn, stream)
            _carry(old.linear.weight, new.linear.weight, None, stream)
            new.linear.bias.copy_(old.linear.bias)


def _strength(into: ConvNorm, out: ConvNorm) -> np.ndarray:
    """What stands in for a score of hidden units that no site has: the size of what goes in times what comes out."""
    return (into.conv.weight.flatten(1).norm(dim=1) * out.conv.weight.flatten(1).norm(dim=0)).numpy()


def _stem(source: EfficientVit, target: EfficientVit, stream: Map) -> None:
    """The convolutions before the first stage, whose channels the last of them writes."""
    layers = [
        (old, new) for old, new in zip(source.patch_embed, target.patch_embed, strict=True) if isinstance(old, ConvNorm)
    ]
    inputs: Map | None = None
    for (old, new), following in zip(layers, [*layers[1:], None], strict=True):
        outputs = stream
        if following is not None:
            into = old.conv.weight.flatten(1).norm(dim=1)
            out = following[0].conv.weight.transpose(0, 1).flatten(1).norm(dim=1)
            outputs = _best((into * out).numpy(), new.conv.out_channels)
        _conv(old, new, outputs, inputs)
        inputs = outputs
