"""What a network without a classifier is taught by: the features of its teacher, pooled and of each token."""

# B images, N tokens, D channels

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError


class Features(NamedTuple):
    """Of one batch."""

    pooled: Tensor
    """(B, D)."""
    tokens: Tensor
    """Before pooling, (B, N, D); other channels than those of `pooled` where layers lie between."""

    def of_channels(self, channels: Tensor) -> Features:
        """These of the D, in both."""
        same = self.tokens.shape[-1] == self.pooled.shape[-1]
        return Features(self.pooled[:, channels], self.tokens[..., channels] if same else self.tokens)


def features(net: Any, images: Tensor) -> Features:
    """By timm's `forward_features` and `forward_head`, from one pass."""
    tokens = net.forward_features(images)
    pooled = net.forward_head(tokens, pre_logits=True)
    if pooled.ndim > 2:  # it does not pool
        pooled = _channels_last(pooled, int(net.num_features)).mean(1)
    return Features(pooled, _channels_last(tokens, int(net.num_features)))


def _channels_last(x: Tensor, channels: int) -> Tensor:
    """(B, D, h, w), (B, h, w, D) or (B, N, D) -> (B, N, D)."""
    if x.ndim == 4 and x.shape[1] == channels:
        x = x.movedim(1, -1)
    return x.flatten(1, -2)


class WithFeatures(nn.Module):
    """A network that is called for its features: parallel training and compilation see calls of a module alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not (hasattr(net, "forward_features") and hasattr(net, "forward_head")):
            raise InputError(
                f"source: a {type(net).__name__} has no classifier and none of timm's forward_features and "
                "forward_head, so its features are not known; give it a head with --num-classes"
            )
        self.net = net

    def forward(self, images: Tensor) -> Features:
        return features(self.net, images)


def relative_errors(mine: Features, theirs: Features) -> Tensor:
    """Squared error as a share of the teacher's squares, (B,): mean of pooled and tokens where both have one shape."""
    found = [_relative(mine.pooled, theirs.pooled)]
    if mine.tokens.shape == theirs.tokens.shape:
        found.append(_relative(mine.tokens, theirs.tokens))
    return torch.stack(found).mean(0)


def _relative(x: Tensor, y: Tensor) -> Tensor:
    errors, squares = ((each.float().flatten(1).square().sum(1)) for each in (x - y, y))
    return errors / squares.clamp_min(torch.finfo(torch.float32).tiny)
