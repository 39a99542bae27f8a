"""The per-architecture code, one file per family; the only place that knows module names."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from prune_realloc.errors import InputError
from prune_realloc.families import vit

FAMILIES: dict[str, ModuleType] = {"vit": vit}


def family_of(model: nn.Module) -> ModuleType:
    """The family that declares `model`.

    Raises:
        InputError: no family knows this network.
    """
    for family in FAMILIES.values():
        if family.owns(model):
            return family
    raise InputError(
        f"model {type(model).__name__} is of no supported family; supported: timm's VisionTransformer "
        "(ViT, DeiT, DeiT-III, DINOv2)"
    )
