"""Small Swin Transformers whose every weight is random and none is zero."""

from typing import Any

import timm
import torch

from support.networks import randomise_

SWIN = "swin_tiny_patch4_window7_224"
TINY_SWIN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "num_classes": 5,
}
SWINS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filled up": {"window_size": 5},
    "one window": {"window_size": 8},
    "no bias": {"qkv_bias": False},
    "headless": {"num_classes": 0},
    "no pooling": {"global_pool": ""},
    "own head width": {"head_dim": 10},
    "other windows": {"window_size": ((4, 4), (3, 3))},
    "oblong windows": {"window_size": ((4, 2), (2, 3))},
    "oblong": {"img_size": (32, 44)},
}
"""Maps of 16 x 16 and 8 x 8 tokens: windows divide them, or not, or are as large."""


def swin(layout: str = "plain", seed: int = 0, **args: Any) -> Any:
    return randomise_(timm.create_model(SWIN, **(TINY_SWIN | SWINS[layout] | args)), seed)


def pictures(net: Any, count: int = 3, seed: int = 1) -> torch.Tensor:
    """Images of the size and dtype of the network."""
    size, generator = net.patch_embed.img_size, torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    return images.to(net.patch_embed.proj.weight.dtype)
