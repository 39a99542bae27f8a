"""The shape of the images that a network takes."""

from __future__ import annotations

from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.families import FAMILIES


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the network takes: from its family, else from timm's configuration and its first convolution.

    Raises:
        InputError: nothing tells it.
    """
    for family in FAMILIES.values():
        if family.owns(model):
            return family.example_input(model)[1:]
    config = getattr(model, "pretrained_cfg", None) or {}
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if "input_size" not in config or first is None:
        raise InputError(f"model {type(model).__name__} does not tell its input size; use a timm model")
    return (first.in_channels, *config["input_size"][1:])
