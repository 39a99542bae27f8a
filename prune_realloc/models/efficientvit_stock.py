"""The nearest network of the stock EfficientViT class, and what it cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_shapes import BlockShape, MergeShape

_PER_STAGE = {"num_heads": "num_heads", "qk_dim": "key_dim", "window_size": "window_size"}
"""Our argument with one number for each block -> the stock class's with one for each stage."""


def stock_args(config: EfficientVitConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The nearest network of the stock class (timm's `EfficientVitMsra`, the original `EfficientViT`).

    Returns:
        Its arguments, and a line for everything that it cannot express: place, what is wanted, what it fixes.
    """
    firsts = {name: [values[0] for values in getattr(config, name)] for name in _PER_STAGE}
    kernels = max(_kernels(config), key=len)
    args = {
        "img_size": min(config.input_size[1:]),
        "in_chans": config.in_chans,
        "num_classes": config.num_classes,
        "embed_dim": list(config.embed_dim),
        "depth": list(config.depth),
        **{stock: firsts[ours] for ours, stock in _PER_STAGE.items()},
        "kernels": kernels,
    }
    lost = [*_lost_of_stem(config), *_lost_of_stages(config), *_lost_of_kernels(config, kernels)]
    lost += _lost_of_value_widths(config)
    for number, block in enumerate(config.blocks):
        lost += _lost_of_block(number, block)
    for merge in config.merges:
        lost += _lost_of_merge(merge)
    if config.distillation:
        lost.append("distillation: timm's class has one classifier")
    return args, tuple(lost)


def _kernels(config: EfficientVitConfig) -> list[list[int]]:
    """The list of kernels of every block."""
    return [list(sides) for stage in config.kernels for sides in stage]


def _lost_of_stem(config: EfficientVitConfig) -> Iterator[str]:
    if tuple(config.stem_strides) != (2, 2, 2, 2):
        yield f"stem: strides {list(config.stem_strides)} wanted, the stock class has four of stride 2"
    if config.embed_dim[0] // 8 < 1:
        yield f"stem: embed_dim {config.embed_dim[0]} is too narrow for its four convolutions"


def _lost_of_stages(config: EfficientVitConfig) -> Iterator[str]:
    for name in _PER_STAGE:
        for stage, values in enumerate(getattr(config, name)):
            if len(set(values)) > 1:
                yield f"stage {stage}: {name} {list(values)} wanted, the stock class has one for each stage"


def _lost_of_kernels(config: EfficientVitConfig, kept: list[int]) -> Iterator[str]:
    if any(sides != kept[: len(sides)] for sides in _kernels(config)):
        yield "kernels: the stock class has one list for all blocks"


def _lost_of_value_widths(config: EfficientVitConfig) -> Iterator[str]:
    first = {block.stage: block for block in reversed(config.blocks)}
    for stage, block in first.items():
        part, qk = block.embed // block.heads, block.qk
        built = int(block.embed / (qk * block.heads) * qk)  # as the stock class computes it, through floats
        if built != part:
            yield (
                f"stage {stage}: with qk_dim {qk} the stock class computes value widths of {built} instead of "
                f"{part}, and fails"
            )


def _lost_of_block(number: int, block: BlockShape) -> Iterator[str]:
    for field, wanted, fixed, how in (
        ("v_dim", block.v, block.embed // block.heads, f"{block.embed} / {block.heads} heads"),
        ("ffn_dim", block.ffn, 2 * block.embed, f"2 x {block.embed}"),
        ("num_ffns", block.num_ffns, 1, "one before and one after the attention"),
    ):
        if wanted != fixed:
            yield f"block {number}: {field} {wanted} wanted, the stock class fixes {how} = {fixed}"


def _lost_of_merge(merge: MergeShape) -> Iterator[str]:
    for what, wanted, fixed in (
        ("merge_dim", merge.hidden, 4 * merge.embed_in),
        ("merge_ffn_dim before it", merge.ffn_in, 2 * merge.embed_in),
        ("merge_ffn_dim after it", merge.ffn_out, 2 * merge.embed_out),
    ):
        if wanted != fixed:
            yield f"merging to stage {merge.stage}: {what} {wanted} wanted, fixed at {fixed}"
