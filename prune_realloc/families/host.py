"""A supported network inside one of the user's: a backbone under a head, behind a preprocessing, in a wrapper."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.families import CUTTABLE, family_of, traced


@dataclass(frozen=True, eq=False)
class Host:
    """A network that runs and is judged, and the supported one inside whose sites are cut; mostly they are the same."""

    network: nn.Module
    at: str
    """Name of the supported one among the modules of `network`; empty where it is `network` itself."""

    @property
    def inner(self) -> nn.Module:
        """The supported one: sites, branches and parameters are named as in it."""
        return self.network.get_submodule(self.at)

    @property
    def stands_alone(self) -> bool:
        return not self.at

    def __str__(self) -> str:
        name = type(self.network).__name__
        return name if self.stands_alone else f"{name} around {self.at} ({type(self.inner).__name__})"


def find_host(model: nn.Module) -> Host:
    """The one supported network that `model` is or holds.

    Raises:
        InputError: it holds none or several, or what is around it uses modules of its inside.
    """
    found = list(_outermost(model, "", set()))
    if not found:
        family_of(model)  # raises where it is of another library
        return Host(model, "")
    if len(found) > 1:
        named = ", ".join(f"{name} ({type(module).__name__})" for name, module in found)
        raise InputError(
            f"model {type(model).__name__} holds {len(found)} supported networks: {named}; give the one to be cut, "
            "or a network that holds one"
        )
    [(at, inner)] = found
    if at:
        _check_apart(model, at, inner)
    return Host(model, at)


def inner_of(model: nn.Module) -> nn.Module:
    """The supported network that `model` is or holds; see `find_host`."""
    return find_host(model).inner


def adopted(model: nn.Module) -> nn.Module:
    """`model` as its sites are named and watched: PyTorch's attention in one that is traced is a module of ours.

    Raises:
        InputError: as `find_host`, or the network does not run on an image.
    """
    host = find_host(model)
    return traced.adopt(model) if host.stands_alone and family_of(model) is traced else model


def copied(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy.

    Args:
        memo: what stands in it for some objects, by their `id`, as `copy.deepcopy` takes it.

    Raises:
        InputError: something in the network cannot be copied.
    """
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:  # a lock, a stream, an activation that was kept
        why = first_line(error)
        raise InputError(
            f"model {type(model).__name__} cannot be copied ({why}); keep what cannot out of its attributes"
        ) from error


def sharing(model: nn.Module, apart: Collection[nn.Parameter] = ()) -> nn.Module:
    """A copy whose parameters and buffers lie in the memory of `model`: who changes one gives it memory of its own.

    Args:
        apart: parameters that are copied.

    Raises:
        InputError: as `copied`.
    """
    own = {id(parameter) for parameter in apart}
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters() if id(p) not in own
    }
    return copied(model, memo | {id(buffer): buffer.detach() for buffer in model.buffers()})


def _outermost(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Supported networks in `module` that lie in no other, each once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    if any(family.owns(module) for family in CUTTABLE.values()):
        yield name, module
        return
    for child, inside in module.named_children():
        yield from _outermost(inside, f"{name}.{child}" if name else child, seen)


def _check_apart(model: nn.Module, at: str, inner: nn.Module) -> None:
    """Raises InputError where a module or parameter of `inner` has another place in `model` too."""
    own = {id(module) for module in inner.modules()} - {id(inner)}
    numbers = {id(p) for p in inner.parameters()}
    for name, module in _around(model, inner, ""):
        if id(module) in own or any(id(p) in numbers for p in module.parameters(recurse=False)):
            where = f"{name} " if name else ""
            raise InputError(f"model {type(model).__name__}: {where}holds a part of {at} too; keep it in {at} only")


def _around(module: nn.Module, inner: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """All modules that are reached without going through `inner`."""
    if module is inner:
        return
    yield name, module
    for child, inside in module.named_children():
        yield from _around(inside, inner, f"{name}.{child}" if name else child)
