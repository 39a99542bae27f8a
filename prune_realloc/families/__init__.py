"""The per-architecture code, one file per family; the only place that knows module names."""

from __future__ import annotations

from collections.abc import Mapping

import timm
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import EFFICIENTVIT
from prune_realloc.families import efficientvit_msra, swin, traced, vit
from prune_realloc.families.base import CuttableFamily, Family

CUTTABLE: dict[str, CuttableFamily] = {"vit": vit, "swin": swin}
"""Families that declare their networks' sites; every other network is traced."""
FAMILIES: dict[str, Family] = {**CUTTABLE, "efficientvit_msra": efficientvit_msra}
"""Families whose files are read."""


def family_of(model: nn.Module) -> CuttableFamily:
    """The family that declares `model`; whatever none declares is traced.

    Raises:
        InputError: it is a network of another library, which has a way of its own into this one.
    """
    for family in CUTTABLE.values():
        if family.owns(model):
            return family
    if type(model).__module__.startswith("transformers."):
        raise InputError(
            f"model {_called(model)} gives no plain tensor; save it with save_pretrained and open that folder, which "
            "is read as timm's network"
        )
    return traced


def cuttable_family_of_architecture(name: str) -> CuttableFamily:
    """The family that cuts timm's network `name`, told from the module that timm builds it in.

    Raises:
        InputError: it is one of our own names in timm, which none cuts.
    """
    where = _module_of(name)
    if where.startswith("prune_realloc.") and name != EFFICIENTVIT:
        raise InputError(f"architecture {name!r} is of no family whose networks can be cut; see docs/support.md")
    module = where.rpartition(".")[2]
    return next((family for family in CUTTABLE.values() if module in family.TIMM_MODULES), traced)


def may_be_of(family: Family, name: str) -> bool:
    """Is timm's network `name` of `family`, or one of our own names, which may be of any?"""
    where = _module_of(name)
    return where.startswith("prune_realloc.") or where.rpartition(".")[2] in family.TIMM_MODULES


def _module_of(name: str) -> str:
    """Where timm's network `name` is built."""
    return getattr(timm.models.model_entrypoint(name), "__module__", "")


def _architecture(model: nn.Module) -> str | None:
    """A network's name as timm knows it, where timm built it."""
    config = getattr(model, "pretrained_cfg", None)
    return config.get("architecture") if isinstance(config, Mapping) else None


def _called(model: nn.Module) -> str:
    """A network's name, and its class, of which timm has several of one name."""
    kind, name = f"{type(model).__name__} in {type(model).__module__}", _architecture(model)
    return f"{name} ({kind})" if name else kind
