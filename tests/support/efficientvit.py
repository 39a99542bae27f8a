"""A small EfficientViT, images for it, and its weights under the original's names."""

import re

import timm
import torch
from torch import nn

from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys

SMALL = {
    "img_size": 28,
    "stem_strides": (2, 2),
    "embed_dim": (16, 24, 32),
    "depth": (1, 1, 2),
    "num_heads": 2,
    "qk_dim": 4,
    "num_classes": 5,
}


def randomise_(net: nn.Module, seed: int = 0) -> nn.Module:
    """Everything random, batch norm statistics and zero-initialised branches included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(0.75 + 0.1 * noise)
            else:
                tensor.copy_(noise / (3 * tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.3 * noise)
    return net.eval()


def images(count=2, size=28, chans=3, seed=0):
    return torch.randn(count, chans, size, size, generator=torch.Generator().manual_seed(seed))


def as_original(state, distilled=True):
    """timm's names and shapes written as the original code writes them."""
    renames = (
        (r"^patch_embed\.conv(\d)\.", lambda m: f"patch_embed.{2 * int(m[1]) - 2}."),
        (r"^stages\.0\.blocks\.", "blocks1."),
        (
            r"^stages\.(\d)\.downsample\.(res1|patchmerge|res2)\.",
            lambda m: f"blocks{int(m[1]) + 1}.{('res1', 'patchmerge', 'res2').index(m[2])}.",
        ),
        (r"^stages\.(\d)\.blocks\.(\d)\.", lambda m: f"blocks{int(m[1]) + 1}.{int(m[2]) + 3}."),
        (r"\.conv\.", ".c."),
        (r"\.linear\.", ".l."),
    )
    found = {}
    for name, tensor in state.items():
        key = name
        for pattern, new in renames:
            key = re.sub(pattern, new, key)
        squeezed = tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and key.endswith(".c.weight")
        found[key] = tensor[:, :, 0, 0] if squeezed else tensor
        if key.endswith("attention_biases"):
            found[f"{key.removesuffix('es')}_idxs"] = torch.zeros(2, 2, dtype=torch.long)
        if distilled and key.startswith("head."):
            found[key.replace("head.", "head_dist.", 1)] = tensor + 1 if tensor.is_floating_point() else tensor
    return found


FLEX_ARGS = SMALL | {"in_chans": 1, "num_classes": 10, "embed_dim": (16, 24, 32), "v_dim": [12, 12, 8]}


def flex(**args):
    """A small network of three stages, its values wider than embed / heads."""
    torch.manual_seed(0)
    return randomise_(timm.create_model("efficientvit_flex", **(FLEX_ARGS | args)))


def small(**args) -> EfficientVit:
    """The network of `SMALL`, with `args` over it."""
    torch.manual_seed(0)
    return randomise_(EfficientVit(EfficientVitConfig(**(SMALL | args))))


def stock_and_ours(name: str) -> tuple[nn.Module, EfficientVit]:
    """timm's network of one of the paper's sizes, and ours with the same weights."""
    stock = randomise_(timm.create_model(name))
    ours = EfficientVit(EfficientVitConfig(**SIZES[name]))
    ours.load_state_dict(to_flex_keys(stock.state_dict()))
    return stock, ours.eval()
