"""The numbers that layers keep beside their weights, brought in line with weights that became smaller."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from prune_realloc.core.errors import InputError

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def sync_layers_(model: nn.Module) -> None:
    """Sizes of all layers as their weights have them.

    Raises:
        InputError: a layer of a kind that cannot become narrower did.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, Conv):
            _sync_conv_(module)
        elif isinstance(module, _ConvTransposeNd):
            _check_whole(name, module)
        elif isinstance(module, _NormBase):
            _sync_batch_norm_(module)
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            module.num_channels = len(module.weight)
            assert module.num_channels % module.num_groups == 0, name
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(module.weight)
        elif hasattr(module, "normalized_shape") and getattr(module, "weight", None) is not None:
            module.normalized_shape = tuple(module.weight.shape)  # torch's layer norms, and timm's norms of their kind


def _sync_conv_(conv: Conv) -> None:
    """A depthwise convolution has as many groups as channels; any other keeps its number of groups."""
    out, each = conv.weight.shape[:2]
    if conv.groups == conv.in_channels > 1:
        conv.groups = out // (conv.out_channels // conv.in_channels)
    conv.out_channels, conv.in_channels = out, each * conv.groups
    assert out % conv.groups == 0, (out, conv.groups)


def _check_whole(name: str, conv: _ConvTransposeNd) -> None:
    if tuple(conv.weight.shape[:2]) != (conv.in_channels, conv.out_channels // conv.groups):
        raise InputError(
            f"{name}: a {type(conv).__name__} cannot become narrower; keep all units that it reads or writes"
        )


def _sync_batch_norm_(norm: _NormBase) -> None:
    sizes = {len(numbers) for numbers in (norm.weight, norm.running_mean, norm.running_var) if numbers is not None}
    assert len(sizes) < 2, sizes  # its buffers are cut with its weights
    norm.num_features = sizes.pop() if sizes else norm.num_features
