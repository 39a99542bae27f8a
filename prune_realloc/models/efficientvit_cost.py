"""What an EfficientViT costs, as a formula of its widths. No torch here.

One convolution with its batch norm after the other; batch norms have two parameters for each channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_shapes import BlockShape, MergeShape, strided


def network_terms(
    input_size: tuple[int, int, int],
    stem: Sequence[tuple[int, int]],
    blocks: Sequence[BlockShape],
    merges: Sequence[MergeShape],
    num_classes: int,
    classifiers: int,
) -> Iterator[Term]:
    """The terms of the whole network, from the images to the classes.

    Args:
        input_size: (C, H, W) of an image.
        stem: (stride, channels after it) of each convolution of the stem.
        blocks: all blocks, in order.
        merges: the patch merging before each stage but the first.
        num_classes: classes of each classifier; 0: no classifier.
        classifiers: how many there are, 2 with distillation.
    """
    stage_sites = [site_name("embed", None, stage) for stage in range(len(merges) + 1)]
    yield from _stem_terms(input_size, stem, stage_sites[0])
    stage = 0
    for number, block in enumerate(blocks):
        if block.stage != stage:
            stage = block.stage
            yield from _merge_terms(merges[stage - 1], stage_sites)
        yield from _block_terms(number, block, stage_sites[stage])
    if num_classes:
        heads = classifiers
        yield Term(
            component="head",
            sites=(stage_sites[-1],),
            params=heads * (2 + num_classes),
            macs=heads * num_classes,
        )
        yield Term(component="head", params=heads * num_classes)


def _stem_terms(input_size: tuple[int, int, int], stem: Sequence[tuple[int, int]], embed: str) -> Iterator[Term]:
    before, *pixels = input_size
    size = strided(pixels, 1)
    for stride, after in stem[:-1]:
        size = strided(size, stride)
        yield Term(component="stem", params=(9 * before + 2) * after, macs=9 * before * after * prod(size))
        before = after
    tokens = prod(strided(size, stem[-1][0]))
    yield Term(component="stem", sites=(embed,), params=9 * before + 2, macs=9 * before * tokens)


def _block_terms(number: int, block: BlockShape, embed: str) -> Iterator[Term]:
    qk, v, ffn = (site_name(axis, number) for axis in ("qk", "v", "ffn"))
    tokens, heads, sides = prod(block.resolution), block.heads, 2 * block.num_ffns
    in_window = block.window**2
    windows = prod(-(-side // block.window) for side in block.resolution)
    seen = windows * in_window  # with the padding of windows that reach over the edge
    kernels = sum(side**2 for side in block.kernels)
    yield Term(component="dwconv", sites=(embed,), params=sides * (9 + 2), macs=sides * 9 * tokens)
    yield Term(component="ffn", sites=(embed, ffn), params=2 * sides, macs=2 * sides * tokens)
    yield Term(component="ffn", sites=(ffn,), params=2 * sides)
    yield Term(component="ffn", sites=(embed,), params=2 * sides)
    # every head reads embed / heads channels, so all of them together read embed
    yield Term(component="qk", sites=(embed, qk), params=2, macs=2 * seen)
    yield Term(component="qk", sites=(qk,), params=heads * (4 + 2) + kernels, macs=(kernels + heads * in_window) * seen)
    yield Term(component="v", sites=(embed, v), params=1, macs=seen)
    yield Term(component="v", sites=(v,), params=2 * heads, macs=heads * in_window * seen)
    yield Term(component="proj", sites=(embed, v), params=heads, macs=heads * seen)
    yield Term(component="proj", sites=(embed,), params=2)
    yield Term(component="position", params=heads * in_window)


def _merge_terms(merge: MergeShape, stage_sites: Sequence[str]) -> Iterator[Term]:
    before, after = stage_sites[merge.stage - 1], stage_sites[merge.stage]
    hidden, squeeze = merge.hidden, merge.squeeze
    into, out = prod(merge.resolution_in), prod(merge.resolution_out)
    for embed, ffn, tokens in ((before, merge.ffn_in, into), (after, merge.ffn_out, out)):
        yield Term(component="dwconv", sites=(embed,), params=9 + 2, macs=9 * tokens)
        yield Term(component="ffn", sites=(embed,), params=2 * ffn + 2, macs=2 * ffn * tokens)
        yield Term(component="ffn", params=2 * ffn)
    yield Term(component="merging", sites=(before,), params=hidden, macs=hidden * into)
    yield Term(
        component="merging",
        params=2 * hidden + (9 + 2) * hidden + 2 * hidden * squeeze + squeeze + hidden,
        macs=9 * hidden * out + 2 * hidden * squeeze,
    )
    yield Term(component="merging", sites=(after,), params=hidden + 2, macs=hidden * out)
