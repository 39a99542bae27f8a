"""The nearest network of the stock EfficientViT class, and what it cannot express."""

from __future__ import annotations

from typing import Any

from prune_realloc.models.efficientvit_config import EfficientVitConfig


def stock_args(config: EfficientVitConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The nearest network of the stock class (timm's `EfficientVitMsra`, the original `EfficientViT`).

    Returns:
        Its arguments, and a line for everything that it cannot express: place, what is wanted, what it fixes.
    """
    lost = []
    args: dict[str, Any] = {
        "img_size": min(config.input_size[1:]),
        "in_chans": config.in_chans,
        "num_classes": config.num_classes,
        "embed_dim": list(config.embed_dim),
        "depth": list(config.depth),
    }
    if tuple(config.stem_strides) != (2, 2, 2, 2):
        lost.append(f"stem: strides {list(config.stem_strides)} wanted, the stock class has four of stride 2")
    if config.embed_dim[0] // 8 < 1:
        lost.append(f"stem: embed_dim {config.embed_dim[0]} is too narrow for its four convolutions")
    for name, argument in (("num_heads", "num_heads"), ("qk_dim", "key_dim"), ("window_size", "window_size")):
        args[argument] = []
        for stage, values in enumerate(getattr(config, name)):
            args[argument].append(values[0])
            if len(set(values)) > 1:
                lost.append(f"stage {stage}: {name} {list(values)} wanted, the stock class has one for each stage")
    kernels = [list(sides) for stage in config.kernels for sides in stage]
    args["kernels"] = max(kernels, key=len)
    if any(sides != args["kernels"][: len(sides)] for sides in kernels):
        lost.append("kernels: the stock class has one list for all blocks")
    first = {block.stage: block for block in reversed(config.blocks)}
    for stage, block in first.items():
        part, qk = block.embed // block.heads, block.qk
        built = int(block.embed / (qk * block.heads) * qk)  # as the stock class computes it, through floats
        if built != part:
            lost.append(
                f"stage {stage}: with qk_dim {qk} the stock class computes value widths of {built} instead of "
                f"{part}, and fails"
            )
    for number, block in enumerate(config.blocks):
        for field, wanted, fixed, how in (
            ("v_dim", block.v, block.embed // block.heads, f"{block.embed} / {block.heads} heads"),
            ("ffn_dim", block.ffn, 2 * block.embed, f"2 x {block.embed}"),
            ("num_ffns", block.num_ffns, 1, "one before and one after the attention"),
        ):
            if wanted != fixed:
                lost.append(f"block {number}: {field} {wanted} wanted, the stock class fixes {how} = {fixed}")
    for merge in config.merges:
        for what, wanted, fixed in (
            ("merge_dim", merge.hidden, 4 * merge.embed_in),
            ("merge_ffn_dim before it", merge.ffn_in, 2 * merge.embed_in),
            ("merge_ffn_dim after it", merge.ffn_out, 2 * merge.embed_out),
        ):
            if wanted != fixed:
                lost.append(f"merging to stage {merge.stage}: {what} {wanted} wanted, fixed at {fixed}")
    if config.distillation:
        lost.append("distillation: timm's class has one classifier")
    return args, tuple(lost)
