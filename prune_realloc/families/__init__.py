"""The per-architecture code, one file per family; the only place that knows module names."""

from __future__ import annotations

from types import ModuleType

import timm
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.families import efficientvit_msra, vit

FAMILIES: dict[str, ModuleType] = {"vit": vit, "efficientvit_msra": efficientvit_msra}


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
        "(ViT, DeiT, DeiT-III, DINOv2) and EfficientViT (MSRA)"
    )


def family_of_architecture(name: str) -> ModuleType:
    """The family that declares timm's `name`, told from the module that timm builds it in.

    Raises:
        InputError: no family knows this architecture.
    """
    where = getattr(timm.models.model_entrypoint(name), "__module__", "").rpartition(".")[2]
    for family in FAMILIES.values():
        if where in family.TIMM_MODULES:
            return family
    raise InputError(f"model {name!r} is of no supported family")
