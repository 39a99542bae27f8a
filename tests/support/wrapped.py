"""Networks of a user's own around a supported one."""

import timm
import torch
import torch.nn.functional as F
from torch import nn

from support.networks import TINY, randomise_

WHERE = "backbone.model"


class Segmenter(nn.Module):
    """timm's features of a ViT under a head of one convolution: (B, 3, H, W) -> (B, 2, H, W)."""

    def __init__(self, **more):
        super().__init__()
        args = {key: value for key, value in TINY.items() if key != "num_classes"} | {"depth": 3} | more
        self.backbone = timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=(0, 1), **args)
        self.head = nn.Conv2d(2 * args["embed_dim"], 2, 1)
        self.num_classes = 2

    def forward(self, images):
        return F.interpolate(self.head(torch.cat(self.backbone(images), 1)), images.shape[-2:], mode="bilinear")


def segmenter(dtype=torch.float64):
    return randomise_(Segmenter()).to(dtype)


def scenes(count=4, size=8, seed=0, dtype=torch.float64):
    """Batches as a data set of dicts gives them: images, and a mask of the pixels above zero in the first channel."""
    draw = torch.Generator().manual_seed(seed)
    images = [torch.randn(size, 3, 32, 32, generator=draw, dtype=torch.float64).to(dtype) for _ in range(count)]
    return [{"pixels": x, "mask": (x[:, 0] > 0).long()} for x in images]


def pixels_of(batch):
    return batch["pixels"]


def mask_loss(output, batch):
    return F.cross_entropy(output, batch["mask"], reduction="none").flatten(1).mean(1)
