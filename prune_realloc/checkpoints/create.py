"""A timm name and arguments -> a network that remembers what it was built from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model
from torch import nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.families import FAMILIES


def create_by_name(name: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    local = ":" in name
    if not local and not is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise InputError(f"model {name!r} is unknown to timm{hint}")
    try:
        net = timm.create_model(name, pretrained=pretrained or local, **model_args)
    except Exception as error:  # the hub's client raises many kinds; each means that the weights cannot be had
        raise InputError(
            f"model {name!r} cannot be created ({first_line(error)}); with a local file use --ckpt"
        ) from error
    for family in FAMILIES.values():
        net = family.adopt(net)
    return with_origin(net, name, model_args)


def create_skeleton(name: str, args: Mapping[str, Any], path: Path) -> nn.Module:
    try:
        return with_origin(timm.create_model(name, pretrained=False, **args), name, args)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ckpt {str(path)!r}: model {name} cannot be built with {dict(args)} ({first_line(error)})"
        ) from error


def with_origin(net: Any, name: str, args: Mapping[str, Any]) -> nn.Module:
    """Note what the network was built from, so that what is cut from it can be built again."""
    if not hasattr(net, "origin"):  # a pruned network has that of its own source
        known = net.pretrained_cfg["architecture"] if ":" in name else name.split(".")[0]
        net.origin = {"source": known, "source_args": dict(args)}
    return net
