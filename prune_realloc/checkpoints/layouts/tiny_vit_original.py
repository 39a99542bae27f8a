"""TinyViT of its authors (microsoft/Cream) -> timm's TinyVit."""

from __future__ import annotations

from prune_realloc.checkpoints.layouts.originals import by_shapes
from prune_realloc.checkpoints.layouts.swin_args import later_downsample
from prune_realloc.checkpoints.layouts.translated import Config, Rules, State, Translated, renamed, split_off

_RULES: Rules = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"^layers\.", "stages."),
    (r"\.c\.", ".conv."),
    (r"^head\.", "head.fc."),
    (r"^norm_head\.", "head.norm."),
)


def recognise(state: State, config: Config) -> bool:
    return "patch_embed.seq.0.c.weight" in state and "norm_head.weight" in state


def translate(state: State, config: Config, preprocessor: Config) -> Translated:
    """timm's network of the same outputs; the windows, whose positions are tables, tell 224, 384 and 512 pixels.

    Raises:
        InputError: two tensors have one place in timm's network.
    """
    kept, gone = split_off(state, r".*\.attention_bias_idxs$")
    return by_shapes("TinyViT", renamed(later_downsample(kept), _RULES), left_out=gone)
