"""Tensors that belong to a network's units or parameters, led to those of what was cut from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site
from prune_realloc.families.host import adopted, copied, find_host
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.sites import find_sites
from prune_realloc.pruning.units import Units

_REMEDY = "apply with compensate: {rotate: false}"


def follow(tensor: Tensor, units: Units, dim: int = 0) -> Tensor:
    """What is left of a tensor that has one entry along `dim` for each unit of the source: a mask, an auxiliary head.

    Raises:
        InputError: it has another length, or the units are mixtures of those of the source.
    """
    if units.basis == "rotated":
        raise InputError(
            f"{units.source}: its units were rotated before the cut, so none of them is one of the source; {_REMEDY}, "
            "or mix the tensor by `rotation` first"
        )
    if not -tensor.ndim <= dim < tensor.ndim or tensor.shape[dim] != units.of:
        raise InputError(
            f"{units.source}: a tensor of shape {tuple(tensor.shape)} has not {units.of} entries along "
            f"dimension {dim}; name the dimension of its units"
        )
    return tensor.index_select(dim, torch.as_tensor(units.index, device=tensor.device))


def follow_parameters(
    tensors: Mapping[str, Tensor], source: nn.Module, units: Mapping[str, Units]
) -> dict[str, Tensor]:
    """Tensors in the shapes of parameters, such as an optimizer's state, by the parameters' names in the result.

    Those of blocks that went are left out.

    Args:
        tensors: by the parameters' names in `source`; not all need be there.
        units: what was left of `source`.

    Raises:
        InputError: a tensor has another shape than its parameter, or a parameter's units were rotated.
    """
    sites = find_sites(source)
    _check(tensors, source, sites, units)
    left = {each.source: each.index for each in units.values()}
    keep = {site.name: left.get(site.name, np.arange(0)) for site in sites if site.axis == "block" or site.name in left}
    numbers = {name: torch.full_like(p, n) for n, (name, p) in enumerate(_doubled(source).named_parameters())}
    origins = [*numbers]
    carried, numbered = (_cut_with(each, source, sites, keep) for each in (tensors, numbers))
    found = {}
    for name, number in numbered.items():
        origin = origins[int(number.flatten()[0])]  # names and order differ where blocks went
        if origin in tensors:
            found[name] = carried[name].to(tensors[origin].dtype)
    return found


def _origins(source: nn.Module) -> dict[str, str]:
    """Parameter as sites name it -> the one of `source` that it is, or a part of."""
    numbered, names = _doubled(source), [name for name, _ in source.named_parameters()]
    with torch.no_grad():
        for number, parameter in enumerate(numbered.parameters()):
            parameter.fill_(number)
    return {name: names[int(part.flatten()[0])] for name, part in adopted(numbered).named_parameters()}


def _doubled(source: nn.Module) -> nn.Module:
    return copied(source).double()


def _cut_with(
    tensors: Mapping[str, Tensor], source: nn.Module, sites: tuple[Site, ...], keep: Keep
) -> dict[str, Tensor]:
    """The parameters of what is cut from `source` where they have been replaced by `tensors`."""
    carrier = _doubled(source)
    with torch.no_grad():
        for name, tensor in tensors.items():
            carrier.get_parameter(name).copy_(tensor)
    return {name: parameter.detach() for name, parameter in cut(carrier, sites, keep).named_parameters()}


def _check(
    tensors: Mapping[str, Tensor], source: nn.Module, sites: tuple[Site, ...], units: Mapping[str, Units]
) -> None:
    shapes = {name: parameter.shape for name, parameter in source.named_parameters()}
    turned = {each.source for each in units.values() if each.basis == "rotated"}
    inside = f"{find_host(source).at}.".removeprefix(".")
    named = {f"{inside}{part.parameter}": site.name for site in sites if site.name in turned for part in site.slices}
    mixed = {origin: named[name] for name, origin in _origins(source).items() if name in named}
    for name, tensor in tensors.items():
        if shapes.get(name) != tensor.shape:
            has = f"{tuple(shapes[name])} there" if name in shapes else "no parameter of the source"
            raise InputError(f"{name}: a tensor of shape {tuple(tensor.shape)} is {has}; give those of the source")
        if name in mixed:
            raise InputError(
                f"{name}: the units of {mixed[name]} were rotated before the cut; {_REMEDY}, or leave it out"
            )
