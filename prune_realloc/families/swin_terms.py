"""What a timm SwinTransformer costs, as a formula of the widths of its sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import site_name
from prune_realloc.families.stages import Place
from prune_realloc.families.windows import tokens_in_windows


def outer_terms(model: Any) -> Iterator[Term]:
    """Patch embedding, patch mergings, the last norm and the classifier."""
    conv, streams = model.patch_embed.proj, [site_name("embed", None, stage) for stage in range(len(model.layers))]
    tokens = model.patch_embed.num_patches
    pixels = conv.weight[0].numel()
    yield Term(component="stem", sites=(streams[0],), params=pixels + int(conv.bias is not None), macs=pixels * tokens)
    yield Term(component="norm", sites=(streams[0],), params=_numbers(model.patch_embed.norm))
    for before, into, stage in zip(streams, streams[1:], list(model.layers)[1:], strict=False):
        height, width = stage.output_resolution
        yield Term(component="norm", sites=(before,), params=4 * _numbers(stage.downsample.norm))
        yield Term(component="merging", sites=(before, into), params=4, macs=4 * height * width)
    yield Term(component="norm", sites=(streams[-1],), params=_numbers(model.norm))
    if isinstance(model.head.fc, nn.Linear):
        classes = model.head.fc.out_features
        height, width = model.layers[-1].output_resolution
        read = 1 if model.head.global_pool.pool_type else height * width
        yield Term(component="head", sites=(streams[-1],), params=classes, macs=classes * read)
        yield Term(component="head", params=classes if model.head.fc.bias is not None else 0)


def block_terms(place: Place, block: Any) -> list[Term]:
    """One block: Q, K, V and attention run in windows, filled up where they do not divide the map; the FFN does not."""
    whole, attn, mlp = site_name("block", place.number), block.attn, block.mlp
    heads, qk, v, ffn = (site_name(axis, place.number) for axis in ("heads", "qk", "v", "ffn"))
    D, (height, width) = place.stream, block.input_resolution
    tokens, (windowed, area) = height * width, tokens_in_windows(block)
    bias = int(attn.qkv.bias is not None)
    return [
        Term(component="qk", sites=(D, heads, qk), params=2, macs=2 * windowed),
        Term(component="qk", sites=(heads, qk), params=2 * bias, macs=windowed * area),
        Term(component="v", sites=(D, heads, v), params=1, macs=windowed),
        Term(component="v", sites=(heads, v), params=bias, macs=windowed * area),
        Term(component="position", sites=(heads,), params=len(attn.relative_position_bias_table)),
        Term(component="proj", sites=(D, heads, v), params=1, macs=windowed),
        Term(component="proj", sites=(D, whole), params=int(attn.proj.bias is not None)),
        Term(component="ffn", sites=(D, ffn), params=2, macs=2 * tokens),
        Term(component="ffn", sites=(ffn,), params=int(mlp.fc1.bias is not None)),
        Term(component="ffn", sites=(D, whole), params=int(mlp.fc2.bias is not None)),
        Term(component="norm", sites=(D, whole), params=_numbers(block.norm1) + _numbers(block.norm2)),
    ]


def _numbers(norm: nn.Module) -> int:
    """How many numbers a norm has for each channel."""
    return len(list(norm.parameters()))
