"""Attention in windows with a table of positions that has a column for each head, and the order of its tokens."""

# H heads, T entries of a head in the table of positions

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor

from prune_realloc.core.structure import Site, Slice
from prune_realloc.families.attention import attention_sites, head_widths
from prune_realloc.models.free_window_attention import FreeWindowAttention

KINDS = (WindowAttention, FreeWindowAttention)
"""The attentions of this kind."""


def window_attention_sites(i: int, attn: Any) -> tuple[Site, Site, Site]:
    """`heads`, `qk` and `v` of one block: as of any attention, and a head has its column in the table of positions."""
    heads, qk, v = attention_sites(i, attn)
    column = np.arange(attn.num_heads)[:, None]
    table = Slice(f"blocks.{i}.attn.relative_position_bias_table", 1, column)
    return replace(heads, slices=(*heads.slices, table)), qk, v


def synced_attention(attn: Any) -> Any:
    """The attention whose parameters were cut, in a class that computes it; itself where they were not."""
    heads = attn.relative_position_bias_table.shape[1]
    v_dim = attn.proj.weight.shape[1] // heads
    qk_dim = (attn.qkv.weight.shape[0] - heads * v_dim) // (2 * heads)
    attn.dim = attn.qkv.weight.shape[1]
    if (heads, qk_dim, v_dim) == (attn.num_heads, *head_widths(attn)):
        return attn
    return FreeWindowAttention(attn, heads, qk_dim, v_dim).train(attn.training)


def tokens_in_windows(block: Any) -> tuple[int, int]:
    """Tokens of all windows of an image, those that fill up the last windows included, and those of one window."""
    windows = [-(-side // window) for side, window in zip(block.input_resolution, block.window_size, strict=True)]
    return windows[0] * windows[1] * block.window_area, block.window_area


def out_of_windows(block: Any, x: Tensor) -> Tensor:
    """What a layer in the windows of `block` sees, of any number of channels C, in the order of the image.

    Args:
        x: shape (.., C); the windows of an image one after the other.

    Returns:
        Shape (B, height, width, C), without the tokens that fill up the last windows.
    """
    height, width = block.input_resolution
    high, wide = block.window_size
    down, across = -(-height // high), -(-width // wide)
    x = x.reshape(-1, down, across, high, wide, x.shape[-1]).transpose(2, 3)
    x = x.reshape(len(x), down * high, across * wide, x.shape[-1])[:, :height, :width]
    return torch.roll(x, tuple(block.shift_size), (1, 2))
