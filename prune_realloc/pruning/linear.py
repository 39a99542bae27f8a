"""Linear layers and convolutions alike: a matrix, the rows that it multiplies, and the batch norm behind.

Linear layers have their channels last, convolutions at dim 1, as the network runs them. A convolution is a linear layer
on patches; one with a kernel of a single entry is one on channels.
"""

# B images (or windows), N positions, U channels read, D channels put out, E entries of a kernel

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.runtime.networks import is_layer

Layer = nn.Linear | nn.Conv2d
_DEAD = 1e-3
"""A channel whose scale is a smaller share of the largest one is none that a correction can go through."""


def layer_at(model: nn.Module, name: str) -> Layer:
    """The layer of that name."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d), name
    assert is_layer(layer), name
    return layer


def positions(layer: Layer, x: Tensor) -> Tensor:
    """What a layer takes in or puts out, as it has it -> (B, .., C), channels last."""
    return x if isinstance(layer, nn.Linear) else x.flatten(2).mT


def inputs(layer: Layer, x: Tensor) -> Tensor:
    """What a layer takes in -> the rows that its matrix multiplies, (B, .., U E), one for each position put out."""
    if isinstance(layer, nn.Linear) or _pointwise(layer):
        return positions(layer, x)
    return _patches(layer, x)


def input_weight(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """How much each row of `inputs` matters, where that of each position of the input is known.

    Args:
        weight: shape (positions of the input,).
        x: the input as the layer has it.

    Returns:
        Shape (rows,): the mean over the patch that a row holds.
    """
    if isinstance(layer, nn.Linear) or _pointwise(layer):
        return weight
    alone = weight.reshape(1, 1, *x.shape[2:])
    held = _patches(layer, torch.ones_like(alone)).sum(2)
    return (_patches(layer, alone).sum(2) / held.clamp(min=1)).squeeze(0)  # padding counts for nothing


def matrix(layer: Layer) -> Tensor:
    """The weights, shape (D, U E); the E columns of a channel are side by side."""
    return layer.weight.detach().flatten(1)


def kernel_entries(layer: Layer) -> int:
    """E: columns of the matrix for each channel that the layer reads."""
    return 1 if isinstance(layer, nn.Linear) else layer.weight[0, 0].numel()


def set_(layer: Layer, weight: Tensor) -> None:
    """Set the weights to a matrix of shape (D, U E). Called without gradients."""
    layer.weight.copy_(weight.reshape(layer.weight.shape))


def norm_at(model: nn.Module, name: str | None) -> _BatchNorm | None:
    """The batch norm of that name, of which the running statistics are used; None for no name."""
    if name is None:
        return None
    norm = model.get_submodule(name)
    assert isinstance(norm, _BatchNorm), name
    assert norm.running_mean is not None, name
    return norm


def scale_of(norm: _BatchNorm) -> Tensor:
    """What `norm` multiplies each channel by, shape (D,), in double precision."""
    assert norm.running_var is not None
    scale = (norm.running_var.detach().double() + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach()


def scale_undone(norm: _BatchNorm) -> Tensor:
    """What an error behind `norm` is multiplied by to be one in front of it, shape (D,); 0 where hardly any passes."""
    scale = scale_of(norm)
    lives = scale.abs() > _DEAD * scale.abs().max()
    return torch.where(lives, scale, 1.0).reciprocal() * lives


def _pointwise(layer: nn.Conv2d) -> bool:
    """Does each position of the output see the same position of the input, and nothing else?"""
    return kernel_entries(layer) == 1 and set(layer.stride) == {1} and not any(_pads(layer))


def _pads(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom; torch has them in a number, a pair or a word."""
    return list(layer._reversed_padding_repeated_twice)


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(B, C, H, W), of any number of channels -> (B, N, C E)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, _pads(layer), mode) if any(_pads(layer)) else x
    return F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).mT
