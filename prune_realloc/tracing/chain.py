"""The chain of units through which a network's activations flow, and how to run it piece by piece.

What leaves a unit decides all that comes after it. `run_to` the first unit, `run_unit` and `run_between` for each,
and `run_from` the last compute what the network computes (in evaluation mode). What the network itself does before,
between and behind the units is left to it: it runs on images of zeros, while its units are not run and give zeros, or
the tensor that they are said to give. `find.py` finds the chain of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prune_realloc.tracing.slots import Slot


@dataclass(frozen=True)
class Unit:
    """A module that is called once, with one tensor that depends on the images, and gives one."""

    name: str
    inputs: Slot
    """Of (args, kwargs)."""
    output: Slot
    behind: tuple[str, ...]
    """Other modules with parameters that are called before the next unit, or behind the last: readers of this one's
    output that are in no unit."""
    joined: bool
    """Does the next unit get this one's output as it is?"""


@dataclass(frozen=True)
class Chain:
    """The units of one network, in the order in which they run, with what is needed to run each alone.

    It holds shapes and arguments of the network in which it was recorded, on its device; a copy with other widths has
    one of its own (`record_chain`).
    """

    parts: tuple[Unit, ...]
    image_shape: tuple[int, ...]
    """Of one image."""
    image_dtype: torch.dtype

    @cached_property
    def units(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def keeps_tensors(self) -> bool:
        """Are units called with tensors besides the stream, or give some?"""
        leaves = [leaf for part in self.parts for slot in (part.inputs, part.output) for leaf in slot.leaves]
        return any(isinstance(leaf, Tensor) for leaf in leaves)

    def __getitem__(self, unit: str) -> Unit:
        return self.parts[self.units.index(unit)]

    def after(self, unit: str) -> Unit | None:
        """The unit behind `unit`; None behind the last."""
        place = self.units.index(unit) + 1
        return self.parts[place] if place < len(self.parts) else None


def run_to(model: nn.Module, chain: Chain, unit: str, images: Tensor) -> Tensor:
    """What enters `unit`, of images of shape (B, ..)."""
    with evaluating(model):
        return _entering(model, chain[unit], images)


def run_unit(model: nn.Module, chain: Chain, unit: str, x: Tensor) -> Tensor:
    """What leaves `unit` where `x` enters it; `x` stays as it is."""
    module, part = model.get_submodule(unit), chain[unit]
    # a unit may write into its input
    args, kwargs = part.inputs.fill(part.inputs.lay(x.clone()))
    with evaluating(module):
        return part.output.take(module(*args, **kwargs))


def run_between(model: nn.Module, chain: Chain, unit: str, x: Tensor) -> Tensor:
    """What enters the unit behind `unit`, which is not the last, where `x` leaves `unit`."""
    behind = chain.after(unit)
    assert behind is not None, f"{unit} is the last unit"
    if chain[unit].joined:
        return x
    with evaluating(model), _passed_over(model, chain, unit, x) as images:
        return _entering(model, behind, images)


def run_from(model: nn.Module, chain: Chain, x: Tensor, unit: str | None = None) -> Any:
    """The output of `model` where `x` leaves `unit`, the last one if none is named."""
    unit = chain.units[-1] if unit is None else unit
    with evaluating(model), _passed_over(model, chain, unit, x) as images:
        return model(images)


@contextmanager
def muted(model: nn.Module, unit: str, modules: Iterable[str]) -> Iterator[None]:
    """Inside the block, the named modules of `unit`, such as `attn.proj`, give zeros: their branches add nothing.

    So does a layer that is not called, where another module reads its weights.
    """
    with ExitStack() as stack:
        for name in modules:
            module = model.get_submodule(unit).get_submodule(name)
            stack.callback(module.register_forward_hook(_zeros).remove)
            _without_weights(stack, module)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout, and no statistics gathered."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False  # not .eval(), which may be overridden to do more
        yield
    finally:
        for module in training:
            module.training = True


class _Reached(BaseException):
    """Stops a pass; no Exception, since a network may catch those."""


def _entering(model: nn.Module, part: Unit, images: Tensor) -> Tensor:
    found: list[Tensor] = []

    def stop(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(part.inputs.take((args, kwargs)))
        raise _Reached

    # first of the hooks: those of others see what enters when the unit is run
    handle = model.get_submodule(part.name).register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        model(images)
    except _Reached:
        return found[0]
    finally:
        handle.remove()
    raise ValueError(
        f"{part.name} is not called in this {type(model).__name__}; a compiled network does not show its calls"
    )


@contextmanager
def _passed_over(model: nn.Module, chain: Chain, unit: str, x: Tensor) -> Iterator[Tensor]:
    """Inside the block, the units as far as `unit` are not run, and `unit` gives `x`; yields images of zeros."""
    count = chain[unit].output.images_in(x)
    with ExitStack() as stack:
        for part in chain.parts[: chain.units.index(unit) + 1]:
            last, slot = part.name == unit, part.output
            # what is behind may write into it
            given = slot.lay(x.clone()) if last else slot.zeros(x, count, read=not part.joined)
            _replace_call(stack, model.get_submodule(part.name), slot.fill(given))
        yield x.new_zeros((count, *chain.image_shape), dtype=chain.image_dtype)


def _replace_call(stack: ExitStack, module: nn.Module, output: Any) -> None:
    """Until the stack closes, a call of `module` gives `output`."""

    def give(*_args: Any, **_kwargs: Any) -> Any:
        return output

    stack.callback(_restore, vars(module), {"forward": vars(module).get("forward")})
    module.forward = give
    stack.callback(module.register_forward_hook(give).remove)  # the last word, after the hooks of others


def _restore(attributes: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if value is None:
            attributes.pop(name, None)
        else:
            attributes[name] = value


def _zeros(module: nn.Module, args: Any, output: Any) -> Any:
    return tree_map_only(Tensor, torch.zeros_like, output)


def _without_weights(stack: ExitStack, module: nn.Module) -> None:
    """Until the stack closes, the parameters of `module` itself are zeros."""
    own = {name: value for name, value in module._parameters.items() if value is not None}
    stack.callback(module._parameters.update, own)
    for name, value in own.items():
        module._parameters[name] = nn.Parameter(torch.zeros_like(value), requires_grad=False)
