"""LeViT of its authors (facebookresearch/LeViT) -> timm's Levit."""

from __future__ import annotations

from collections.abc import Iterator

from prune_realloc.checkpoints.layouts.originals import by_shapes
from prune_realloc.checkpoints.layouts.translated import (
    Config,
    Rules,
    State,
    Translated,
    count_blocks,
    renamed,
    split_off,
)

_RULES: Rules = (
    *((rf"^patch_embed\.{2 * layer}\.", f"stem.conv{layer + 1}.") for layer in range(4)),
    (r"\.(q|proj)\.1\.", r".\1.ln."),
    (r"\.mlp\.0\.", ".mlp.ln1."),
    (r"\.mlp\.2\.", ".mlp.ln2."),
    (r"\.[cl]\.", ".linear."),
)


def recognise(state: State, config: Config) -> bool:
    return "patch_embed.0.c.weight" in state and "blocks.0.m.qkv.c.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs; one that was trained without a teacher has one head.

    Raises:
        InputError: the file is damaged: a block has an impossible number, or two have one place in timm's network.
    """
    kept, gone = split_off(state, r".*\.attention_bias_idxs$")
    ours = renamed(kept, (*_places(kept), *_RULES))
    return by_shapes("LeViT", ours, model_args={"distilled": "head_dist.linear.weight" in ours}, left_out=gone)


def _places(state: State) -> Iterator[tuple[str, str]]:
    """Their attentions and MLPs are one row; timm has an MLP beside each attention, in stages that begin by halving."""
    stage, block, beside = 0, 0, ""
    for number in range(count_blocks(state)):
        part = "mlp"
        if f"blocks.{number}.kv.c.weight" in state:
            stage, block = stage + 1, 0
            beside, part = f"stages.{stage}.downsample", "attn_downsample"
        elif f"blocks.{number}.m.qkv.c.weight" in state:
            beside, part = f"stages.{stage}.blocks.{block}", "attn"
            block += 1
        yield rf"^blocks\.{number}\.(m\.)?", f"{beside}.{part}."
