"""Networks around PyTorch's attention: of one's own, with `nn.TransformerEncoder`, and torchvision's ViT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

D, H = 32, 4  # stream, heads


class Stem(nn.Module):
    """16 tokens of an image, what `inner` makes of them, and a classifier."""

    input_size = (3, 32, 32)
    num_classes = 10

    def __init__(self, inner: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.stem, self.place = nn.Conv2d(3, D, 8, 8), nn.Parameter(torch.zeros(1, 16, D))
        self.inner, self.norm, self.head = inner, nn.LayerNorm(D), nn.Linear(D, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2) + self.place
        x = self.inner(x) if self.batch_first else self.inner(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.norm(x).mean(1))


class Block(nn.Module):
    """A residual attention in front of a residual MLP.

    Args:
        call: of (attention, tokens): what is added.
    """

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor], kind: Any = nn.MultiheadAttention, **args: Any):
        super().__init__()
        self.norm1, self.attn, self.call = nn.LayerNorm(D), kind(D, H, **args), call
        self.norm2, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 48), nn.Linear(48, D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.call(self.attn, self.norm1(x))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


def itself(attention: nn.Module, x: Tensor) -> Tensor:
    """The weights are thrown away."""
    x, _ = attention(x, x, x)
    return x


def blocks(call: Callable[[nn.Module, Tensor], Tensor] = itself, **args: Any) -> nn.Module:
    """Two of them in a network."""
    args = {"batch_first": True} | args
    return lively(Stem(nn.Sequential(*(Block(call, **args) for _ in range(2))), batch_first=args["batch_first"]))


def encoder(*, batch_first: bool = True, **args: Any) -> nn.Module:
    """A network around `nn.TransformerEncoder` of two layers."""
    layer = nn.TransformerEncoderLayer(D, H, 48, batch_first=batch_first, **args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says when it takes no fused pass
        return lively(Stem(nn.TransformerEncoder(layer, 2), batch_first=batch_first))


def torchvisions() -> nn.Module:
    """torchvision's ViT, small."""
    return lively(
        torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=D, mlp_dim=64, num_classes=10
        )
    )


def lively(net: nn.Module) -> nn.Module:
    """In evaluation mode, with weights drawn so that every part shows in the output."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            drawn = torch.randn(parameter.shape, generator=noise)
            parameter.copy_(drawn * (0.2 if parameter.ndim > 1 else 0.3) + (0.5 if parameter.ndim == 1 else 0))
    return net.eval()
