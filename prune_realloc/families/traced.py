"""Any network: its sites, streams and costs follow from a run on labels (`tracing/`), the way through it from hooks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.structure import Branch, Structure
from prune_realloc.tracing import candidates as grouping
from prune_realloc.tracing.branches import branches, crossings, exits, norms, pairs
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.chain import Chain, muted, run_between, run_from, run_to, run_unit
from prune_realloc.tracing.classes import classes
from prune_realloc.tracing.find import find_chain
from prune_realloc.tracing.left import left_of
from prune_realloc.tracing.order import token_order
from prune_realloc.tracing.residual import residual_units
from prune_realloc.tracing.rewrite import rewrite_
from prune_realloc.tracing.run import traced
from prune_realloc.tracing.sites import Sites, sites
from prune_realloc.tracing.terms import terms

SUPPORTS = "any other network that one image can be traced through"
TIMM_MODULES: tuple[str, ...] = ()
ALIASES: tuple[str, ...] = ()


class Gone(nn.Module):
    """Where a whole block was: it hands on what it gets."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        """Of the block, in the network that was cut."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


@dataclass(frozen=True, eq=False)
class _Found:
    """What a run on labels told of one network."""

    traced: Traced
    chain: Chain
    sites: Sites
    structure: Structure

    @cached_property
    def units_of(self) -> dict[int, int]:
        """Block -> its unit of the chain."""
        return {block: unit for unit, block in self.sites.blocks.items()}

    def entry(self, stream: str) -> int:
        """The unit that takes a stream first; one more than the last where none does."""
        numbers = {number for number, (site, _) in self.sites.of.items() if site == stream}
        for unit, name in enumerate(self.chain.units):
            if numbers & set(self.traced.row(self.traced.record.calls[name][:2])):
                return unit
        return len(self.chain.units)

    def leave(self, stream: str) -> int:
        """The unit behind the last that adds to a stream."""
        on_it = [self.units_of[branch.block] for branch in self.structure.branches if branch.stream == stream]
        return max(on_it) + 1 if on_it else self.entry(stream)


_known: WeakKeyDictionary[nn.Module, tuple[object, _Found]] = WeakKeyDictionary()


def owns(model: nn.Module) -> bool:
    """Whatever no other family has."""
    return True


def adopt(model: nn.Module) -> nn.Module:
    return model


def describe(model: nn.Module) -> Structure:
    """Sites, costs and branches.

    Raises:
        InputError: the network does not run on one image, or what it takes is not known.
    """
    return _found(model).structure


def example_input(model: Any) -> tuple[int, int, int, int]:
    """From what the network says of itself, else from timm's configuration.

    Raises:
        InputError: nothing tells it.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    stated = getattr(model, "input_size", None) or config.get("input_size") or ()
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else stated[0] if stated else None
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or stated[-2:]
    if channels is None or len(size) != 2:
        raise InputError(
            f"model {type(model).__name__} does not tell its input size; give it one: model.input_size = (3, 224, 224)"
        )
    return (1, channels, *size)


def features(model: Any, images: Tensor) -> Tensor:
    if hasattr(model, "forward_head") and hasattr(model, "forward_features"):
        out = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        out = model(images)
    return out if out.ndim == 2 else out.flatten(2).mean(2) if out.ndim == 4 else out.mean(1)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """No names of tensors tell of a network that nothing is known of; a file needs timm's name."""
    return False


def inferred_args(state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    return {}


def to_timm_keys(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    return state


def candidates(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {}


def stream_input(model: nn.Module, stream: str, x: Tensor) -> Tensor:
    found = _found(model)
    streams = list(found.structure.stream_dims)
    entry, place = found.entry(stream), streams.index(stream)
    if place == 0:
        return run_to(model, found.chain, found.chain.units[entry], x)
    at = found.leave(streams[place - 1])
    return _led(model, found, x, at, entry)


def _led(model: nn.Module, found: _Found, x: Tensor, at: int, to: int) -> Tensor:
    """What enters unit `to`, where `x` leaves the unit before `at`, or enters `at` where no unit added to it."""
    units = found.chain.units
    on_it = [found.units_of[branch.block] for branch in found.structure.branches]
    if at - 1 in on_it and at < len(units):
        x = run_between(model, found.chain, units[at - 1], x)
    for unit in range(at, to):
        x = run_unit(model, found.chain, units[unit], x)
        x = run_between(model, found.chain, units[unit], x) if unit + 1 < len(units) else x
    return x


def branch_output(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    """What the unit gives out beyond what it takes, while its other branches add nothing."""
    found = _found(model)
    unit = found.units_of[branch.block]
    name, own = found.chain.units[unit], found.structure.branches
    others = [each for each in own if each.block == branch.block and each.writer != branch.writer]
    gates = {
        gate.module: gate for site in found.sites.every if site.name == found.sites.whole[unit] for gate in site.gates
    }
    silent = [found_gate for each in others for found_gate in [_gate_behind(found, each.writer, gates)]]
    with muted(model, name, [gate.removeprefix(f"{name}.") for gate in silent]):
        out = run_unit(model, found.chain, name, x)
    last = max((each for each in own if each.block == branch.block), key=own.index) is branch or not others
    behind = found.chain.after(name)
    if last and behind is not None and not found.chain[name].joined and _same_stream(found, unit, branch.stream):
        out = run_between(model, found.chain, name, out)
    return out - x


def _gate_behind(found: _Found, writer: str, gates: Mapping[str, Any]) -> str:
    """The module behind a writer whose output is added to the stream."""
    layer = next(layer for layer in found.traced.record.layers if layer.module == writer)
    behind = [m for m in gates if getattr(found.traced.record.calls[m][2], "source", None) == layer.number]
    return behind[-1] if behind else writer


def _same_stream(found: _Found, unit: int, stream: str) -> bool:
    return any(
        branch.stream == stream and found.units_of[branch.block] == unit + 1 for branch in found.structure.branches
    )


def in_stream_order(model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
    """Where a branch runs in windows, what its layers see comes back into the order of the stream."""
    found = _found(model)
    name = found.chain.units[found.units_of[branch.block]]
    order = token_order(model.get_submodule(name), name, found.traced.record, branch.writer)
    if order is None:
        return x
    flat = x.reshape(-1, len(order.places), x.shape[-1])
    return flat[:, order.of_tokens].reshape(-1, *order.shape, x.shape[-1])


def head_output(model: nn.Module, x: Tensor) -> Tensor:
    found = _found(model)
    at = found.leave(list(found.structure.stream_dims)[-1])
    return run_from(model, found.chain, x, found.chain.units[at - 1])


def fold_scales_(model: nn.Module) -> None:
    """Scales of each channel between a layer and the stream go into the layer, or into the batch norm behind it."""
    found = _found(model)
    behind = norms(found.traced)
    for scale, number in found.traced.record.scales:
        layer = found.traced.record.layers[number]
        if not layer.own:
            continue
        gamma = model.get_parameter(scale)
        target = model.get_submodule(behind.get(layer.module, layer.module))
        for part in (target.weight, target.bias):
            if isinstance(part, Tensor):
                part.mul_(gamma.reshape(-1, *[1] * (part.ndim - 1)))
        gamma.fill_(1.0)


def depth_args(blocks: int) -> dict[str, Any]:
    """`places` says which blocks there are."""
    return {}


def places(model: nn.Module) -> tuple[dict[str, Any], list[int]]:
    gone = {module.number for module in model.modules() if isinstance(module, Gone)}
    have = len(_found(model).sites.blocks)
    return {}, [number for number in range(have + len(gone)) if number not in gone]


def drop_blocks_(model: nn.Module, gone: Collection[int]) -> None:
    found = _found(model)
    numbers = places(model)[1]
    for block in gone:
        parent, _, child = found.chain.units[found.units_of[block]].rpartition(".")
        setattr(model.get_submodule(parent), child, Gone(numbers[block]))


def sync_(model: nn.Module, keep: Mapping[str, np.ndarray], source: nn.Module, gone: Any) -> None:
    found = _found(source)
    record = found.traced.record
    whole = rewrite_(model, source, record, left_of(record.ids, gone))
    modes = {module: module.training for module in model.modules()}
    model.train()  # at this, networks of timm let go of what they keep
    for module, training in modes.items():
        module.training = training
    try:
        traced(model, (2, *example_input(source)[1:]))  # what was written anew may hold for one image alone
    except Exception as error:  # it is the network's own code that runs
        why = f"; not written anew: {whole[0]}" if whole else ""
        raise InputError(
            f"model {type(model).__name__} does not run with what is left: {first_line(error)}{why}"
        ) from error


def _found(model: nn.Module) -> _Found:
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    known = _known.get(model)
    if known is None or known[0] != shapes:
        known = _known[model] = (shapes, _trace(model))
    return known[1]


def _trace(model: nn.Module) -> _Found:
    shape = example_input(model)
    first = next(model.parameters())
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(first)
    try:
        chain = find_chain(model, images)
        record = traced(model, shape)
    except Exception as error:  # it is the network's own code that runs
        raise InputError(
            f"model {type(model).__name__} does not run on one image of {shape[1:]}: {first_line(error)}"
        ) from error
    whole = Traced(record, classes(record), chain.units)
    every = sites(whole, model, grouping.candidates(whole), residual_units(whole, model, chain, images))
    return _Found(whole, chain, every, _structure(model, whole, every))


def _structure(model: nn.Module, whole: Traced, every: Sites) -> Structure:
    named = {part.parameter for site in every.every if site.axis != "block" for part in site.slices}
    reasons = {}
    for run in whole.record.ids.all_runs():
        for number in np.unique(whole.classes.along(run)[1]):
            if int(number) in whole.classes.frozen:
                reasons[run.name] = whole.classes.frozen[int(number)]
    fixed = {name: reasons.get(name, "no site has it") for name, _ in model.named_parameters() if name not in named}
    return Structure(
        sites=every.every,
        terms=terms(whole, model, every),
        opaque=(),
        streams=(),
        fixed=fixed,
        branches=branches(whole, every),
        pairs=pairs(whole, every),
        exits=exits(whole, every),
        norms=norms(whole),
        stream_dims={site.name: site.gates[0].dim for site in every.every if site.axis == "embed"},
        crossings=crossings(whole, every),
    )
