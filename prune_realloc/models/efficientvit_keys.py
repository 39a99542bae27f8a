"""Checkpoints of the original EfficientViT and of timm's class -> the names of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from timm.layers import resize_rel_pos_bias_table_levit
from torch import Tensor, nn

_FROM_ORIGINAL = (
    (r"^patch_embed\.(\d+)\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}."),
    (r"^blocks1\.(\d+)\.", lambda m: f"stages.0.blocks.{m[1]}."),
    (
        r"^blocks(\d+)\.([012])\.",
        lambda m: f"stages.{int(m[1]) - 1}.downsample.{('res1', 'patchmerge', 'res2')[int(m[2])]}.",
    ),
    (r"^blocks(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}."),
    (r"\.c\.", ".conv."),
    (r"\.l\.", ".linear."),
)
_FROM_TIMM = (
    (r"\.(dw|ffn)([01])\.m\.", lambda m: f".{('before', 'after')[int(m[2])]}.0.{m[1]}.m."),
    (r"\.res([12])\.([01])\.m\.", lambda m: f".{('before', 'after')[int(m[1]) - 1]}.{('dw', 'ffn')[int(m[2])]}.m."),
    (r"\.pw1\.", ".up."),
    (r"\.pw2\.", ".down."),
    (r"\.patchmerge\.conv1\.", ".merge.expand."),
    (r"\.patchmerge\.conv2\.", ".merge.dw."),
    (r"\.patchmerge\.conv3\.", ".merge.reduce."),
    (r"\.patchmerge\.se\.", ".merge.se."),
    (r"\.proj\.1\.", ".proj."),
)


def to_flex_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of this module for a checkpoint of timm's class, of the original code, or of this module.

    The original stores 1x1 convolutions as matrices, and what follows from the window's size as a buffer.
    """
    rules = (*_FROM_ORIGINAL, *_FROM_TIMM) if any(name.startswith("blocks1.") for name in state) else _FROM_TIMM
    found = {}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in ("attention_bias_idxs", "ab"):
            continue
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        matrix = tensor.ndim == 2 and name.endswith(".conv.weight")
        found[name] = tensor[:, :, None, None] if matrix else tensor
    return found


def to_flex_weights(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """`to_flex_keys`, with attention biases resized to the network's windows."""
    found, wanted = to_flex_keys(state), dict(net.named_parameters())
    for name, tensor in found.items():
        if name.endswith("attention_biases") and name in wanted and tensor.shape != wanted[name].shape:
            found[name] = resize_rel_pos_bias_table_levit(tensor.T, wanted[name].shape[::-1]).T.contiguous()
    return found
