"""Weights of a trained EfficientViT, carried over to one of other widths.

Every dimension of every tensor has a map: for each new position the old one that it takes, or -1 for a fresh one. The
best units by score go first; each row of a weight has the score of the unit that lies there. A head's output is added
to the next head's input channel by channel, so the units of V that meet a channel of the stream follow that channel.
Where all of a dimension is taken in its order, the numbers are the source's; a network of the same widths computes what
the source computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from timm.layers import resize_rel_pos_bias_table_levit
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_layers import ConvNorm, NormLinear
from prune_realloc.pruning.sites import find_sites

Scores = Mapping[str, np.ndarray]
"""Parameter -> a score for each of its rows."""
Map = np.ndarray
"""New position -> old position, or -1."""


@torch.no_grad()
def inherit(source: EfficientVit, target: EfficientVit, of_sites: Mapping[str, np.ndarray]) -> None:
    """Write into `target` what survives of `source`; what is new stays as it was initialised.

    Args:
        of_sites: scores of the source's sites, as an analysis has them.

    Raises:
        InputError: depth, heads, kernels or stem differ, so that there is nothing to carry over; or the scores are of
            other sites.
    """
    old, new = source.config, target.config
    _check_alike(old, new)
    scores, heads = _of_rows(source, of_sites), _heads_of_stages(old)
    writers = [f"patch_embed.conv{len(old.stem_strides)}", *map(_reduce, range(1, len(old.depth)))]
    streams = [
        _by_part(scores[f"{writer}.conv.weight"], heads[stage], new.embed_dim[stage])
        for stage, writer in enumerate(writers)
    ]
    _stem(source, target, streams[0], scores)
    for name, block in _blocks(source):
        fresh, stream = target.get_submodule(name), streams[int(name.split(".")[1])]
        for ffn in _ffns(name, block):
            _token_ffn(source.get_submodule(ffn), target.get_submodule(ffn), stream, scores[f"{ffn}.{_HIDDEN}"])
        attention = f"{name}.mixer.m.attn"
        _attention(attention, source.get_submodule(attention), fresh.get_submodule("mixer.m.attn"), stream, scores)
    for stage, (before, after) in enumerate(pairwise(streams), start=1):
        _downsample(f"stages.{stage}.downsample", source, target, before, after, scores)
    if old.num_classes == new.num_classes:
        _classifiers(source, target, streams[-1])


_HIDDEN = "ffn.m.up.conv.weight"
"""In a token FFN, the weight whose rows are its hidden units."""


def _reduce(stage: int) -> str:
    """The convolution that writes the channels of a stage behind the first."""
    return f"stages.{stage}.downsample.merge.reduce"


def _blocks(model: EfficientVit) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every block, counted through the stages."""
    stages: Iterable[Any] = model.stages
    for stage, module in enumerate(stages):
        for index, block in enumerate(module.blocks):
            yield f"stages.{stage}.blocks.{index}", block


def _ffns(name: str, block: Any) -> list[str]:
    """All token FFNs of a block."""
    return [f"{name}.{side}.{i}" for side in ("before", "after") for i in range(len(getattr(block, side)))]


def _of_rows(source: EfficientVit, of_sites: Mapping[str, np.ndarray]) -> Scores:
    """The score of each row of every parameter: that of the unit which lies there, least where none does."""
    sites = find_sites(source)
    if {site.name for site in sites} != set(of_sites):
        raise InputError("inherit: the analysis names other sites than this version; run `analyze` again")
    found = {name: np.full(len(tensor), -np.inf) for name, tensor in source.named_parameters()}
    for site in sites:
        for part in site.slices if site.axis not in ("block", "heads") else ():
            if part.dim == 0 and part.parameter in found:
                units = np.arange(site.units) if part.units is None else part.units
                found[part.parameter][part.index] = of_sites[site.name][units][:, None]
    return found


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


def _token_ffn(old: Any, new: Any, stream: Map, scores: np.ndarray) -> None:
    """One FFN with the hidden units that are best in it."""
    hidden = _best(scores, new.ffn.m.up.conv.out_channels)
    _conv(old.dw.m, new.dw.m, stream, None)
    _conv(old.ffn.m.up, new.ffn.m.up, hidden, stream)
    _conv(old.ffn.m.down, new.ffn.m.down, stream, hidden)


def _attention(name: str, old: Any, new: Any, stream: Map, scores: Scores) -> None:
    """One cascade, called `name`."""
    H, K, V = old.num_heads, old.qk_dim, old.v_dim
    parts = _head_parts(stream, H, old.qkvs[0].conv.in_channels)
    columns = []
    for head, (part, following) in enumerate(zip(parts, [*parts[1:], None], strict=True)):
        own = scores[f"{name}.qkvs.{head}.conv.weight"]
        qk = _best(own[:K], new.qk_dim)
        v = _values(own[2 * K :], following, new.v_dim)
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


def _downsample(name: str, source: EfficientVit, target: EfficientVit, before: Map, after: Map, scores: Scores) -> None:
    """The patch merging between two streams, with the FFNs before and after it."""
    old, new = source.get_submodule(name), target.get_submodule(name)
    for side, stream in (("before", before), ("after", after)):
        _token_ffn(old.get_submodule(side), new.get_submodule(side), stream, scores[f"{name}.{side}.{_HIDDEN}"])
    _patch_merging(f"{name}.merge", old.merge, new.merge, before, after, scores)


def _patch_merging(name: str, old: Any, new: Any, before: Map, after: Map, scores: Scores) -> None:
    hidden = _best(scores[f"{name}.expand.conv.weight"], new.expand.conv.out_channels)
    _conv(old.expand, new.expand, hidden, before)
    _conv(old.dw, new.dw, hidden, None)
    _conv(old.reduce, new.reduce, after, hidden)
    squeeze = _best(scores[f"{name}.se.fc1.weight"], new.se.fc1.out_channels)
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


def _stem(source: EfficientVit, target: EfficientVit, stream: Map, scores: Scores) -> None:
    """The convolutions before the first stage, whose channels the last of them writes."""
    inputs: Map | None = None
    for number in range(1, len(source.config.stem_strides) + 1):
        name = f"patch_embed.conv{number}"
        old: Any = source.get_submodule(name)
        new: Any = target.get_submodule(name)
        outputs = stream
        if number < len(source.config.stem_strides):
            outputs = _best(scores[f"{name}.conv.weight"], new.conv.out_channels)
        _conv(old, new, outputs, inputs)
        inputs = outputs
