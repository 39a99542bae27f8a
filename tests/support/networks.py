"""Small networks whose every weight is random and none is zero, so that no error hides behind a zero."""

from typing import Any

import timm
import torch
from torch import nn

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer_scale_no_embed_class": ("deit3_small_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
    "no_bias": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "pre_norm": ("vit_base_patch16_clip_224", {}),
    "average_pool": ("vit_base_patch16_gap_224", {}),
    "attention_pool": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "swiglu": ("vit_giant_patch14_dinov2", {"mlp_ratio": 4}),
    "post_norm": ("vit_base_patch16_rpn_224", {}),
    "inner_norms": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
}


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator) + (1.0 if p.ndim == 1 else 0.0))
    return model.eval()


def build(variant: str = "plain", **args: Any) -> Any:
    name, own = VARIANTS[variant]
    return randomise_(timm.create_model(name, **(TINY | own | args)))
