"""The shapes of an EfficientViT's blocks and patch mergings, every number in them settled. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """One block: FFNs, attention, FFNs."""

    stage: int
    """The stage that the block is part of, counted from 0."""
    embed: int
    """Channels of the feature map."""
    heads: int
    """Heads of the attention; each reads embed / heads channels."""
    qk: int
    """Query and key width of one head."""
    v: int
    """Value width of one head."""
    ffn: int
    """Hidden units of each FFN."""
    num_ffns: int
    """FFNs before the attention, and as many after it."""
    window: int
    """Side of the attention's windows, no larger than the feature map."""
    kernels: tuple[int, ...]
    """Side of the depthwise convolution on the queries, for each head."""
    resolution: tuple[int, int]
    """Feature map (height, width)."""


@dataclass(frozen=True, kw_only=True)
class MergeShape:
    """What lies before a later stage: an FFN, an inverted bottleneck of stride 2 with squeeze-excite, an FFN."""

    stage: int
    """The stage that it leads to."""
    embed_in: int
    """Channels of the stage before it."""
    embed_out: int
    """Channels of the stage that it leads to."""
    hidden: int
    """Channels inside the bottleneck."""
    squeeze: int
    """Channels inside the squeeze-excite."""
    ffn_in: int
    """Hidden units of the FFN before the bottleneck."""
    ffn_out: int
    """Hidden units of the FFN after the bottleneck."""
    resolution_in: tuple[int, int]
    """Feature map (height, width) before the bottleneck."""
    resolution_out: tuple[int, int]
    """Feature map (height, width) after the bottleneck."""


def strided(size: Sequence[int], stride: int) -> tuple[int, int]:
    """(height, width) after a 3x3 convolution with padding 1; several strides of 2 round as their product does."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1
