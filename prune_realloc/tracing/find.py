"""The chain of any network, found by watching it run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prune_realloc.tracing.chain import Chain, Unit, evaluating, run_between, run_from, run_to, run_unit
from prune_realloc.tracing.dataflow import Call, Pass, walk, watch
from prune_realloc.tracing.slots import Slot, slot_of

_IMAGES = (2, 3)
"""Images of the two passes, whose difference tells what depends on their number."""


@torch.no_grad()
def find_chain(model: nn.Module, images: Tensor) -> Chain:
    """The units of `model`: as small as they can be without a residual connection around one, but no single layers.

    A module that only chains others, such as a stage, is replaced by those, unless they are layers all. What gives one
    vector an image, such as a classifier behind a pooling, is no unit, nor is a norm before it. The chain is empty
    where more than one tensor carries the images all the way, where the way itself depends on the images or their
    number, and where running the units one by one is not what the network computes.

    Args:
        images: shape (B, ..), as `model` takes them; two or three of them are run, repeated where there are fewer.
    """
    passes = _watched(model, images)
    candidates = _candidates(passes)
    found = [call for child in passes[0].root.children for call in _inside(child, candidates)]
    body = [call.name for call in _without_end(found, candidates)]
    chain = _chain(body, candidates, passes[0], images)
    return chain if _computes(model, chain, _picked(images, _IMAGES[0])) else _chain([], {}, passes[0], images)


@torch.no_grad()
def record_chain(model: nn.Module, units: Iterable[str], images: Tensor) -> Chain:
    """The chain of these units in `model`, for instance those of the network that it was cut from.

    Args:
        images: as for `find_chain`.

    Raises:
        ValueError: one of them is no unit in this network.
    """
    passes = _watched(model, images)
    candidates = _candidates(passes)
    for unit in (units := tuple(units)):
        if unit not in candidates:
            raise ValueError(f"{unit!r} is no unit of this {type(model).__name__}: more than one tensor passes by it")
    return _chain(units, candidates, passes[0], images)


@torch.no_grad()
def join_units(model: nn.Module, chain: Chain, parents: Iterable[str], images: Tensor) -> Chain:
    """The chain with each of these modules in place of the units in it, where that can be a unit.

    Args:
        images: as for `find_chain`.
    """
    passes = _watched(model, images)
    candidates = _candidates(passes)
    whole = [parent for parent in parents if parent in candidates]
    names = (next((p for p in whole if unit.startswith(f"{p}.")), unit) for unit in chain.units)
    return _chain(tuple(dict.fromkeys(names)), candidates, passes[0], images)


@dataclass(frozen=True)
class _Candidate:
    """A call that may be a unit."""

    name: str
    inputs: Slot
    output: Slot
    entered: int
    left: int


def _watched(model: nn.Module, images: Tensor) -> tuple[Pass, Pass]:
    with evaluating(model):
        first, second = (watch(model, _picked(images, count)) for count in _IMAGES)
    return first, second


def _picked(images: Tensor, count: int) -> Tensor:
    """So many of the images, as a copy, since a network may write into them."""
    return images[torch.arange(count, device=images.device) % len(images)]


def _candidates(passes: tuple[Pass, Pass]) -> dict[str, _Candidate]:
    """By name; none if the two passes do not take the same way."""
    first, second = passes
    calls, others = first.calls(), second.calls()
    if [call.name for call in calls] != [call.name for call in others]:
        return {}
    times = Counter(call.name for call in calls)
    found = {}
    for call, other in zip(calls, others, strict=True):
        # one tensor alone carries the images, before and after
        if call.name and times[call.name] == 1 == first.alive[call.entered] == first.alive[call.left]:
            inputs = slot_of((call.inputs, other.inputs), _IMAGES)
            output = slot_of((call.output, other.output), _IMAGES)
            if inputs is not None and output is not None:
                found[call.name] = _Candidate(call.name, inputs, output, call.entered, call.left)
    return found


def _inside(call: Call, candidates: Mapping[str, _Candidate]) -> list[Call]:
    """The smallest units in `call` that hold all its layers, or itself."""
    parts = [_inside(child, candidates) for child in call.children if _computes_with_layers(child)]
    found = [unit for part in parts for unit in part]
    if call.name not in candidates or not _computes_with_layers(call):
        return found
    return found if all(parts) and not all(map(_is_layer, found)) else [call]


def _computes_with_layers(call: Call) -> bool:
    return call.reads and next(call.module.parameters(), None) is not None


def _is_layer(call: Call) -> bool:
    """Has it no others inside, but perhaps an activation?"""
    return not any(map(_computes_with_layers, call.children))


def _without_end(found: Sequence[Call], candidates: Mapping[str, _Candidate]) -> Sequence[Call]:
    """Without what gives one vector an image, and the single layers before it, unless there is nothing else."""
    axes = [len(candidates[call.name].output.shape) for call in found]
    maps = [i + 1 for i, count in enumerate(axes) if count > 2]
    blocks = [i for i in maps if not _is_layer(found[i - 1])]
    return found[: max(blocks or maps, default=len(found))]


def _chain(units: Sequence[str], candidates: Mapping[str, _Candidate], seen: Pass, images: Tensor) -> Chain:
    others = _outside(seen.root, set(units))
    ends = [candidates[unit].entered for unit in units[1:]]
    parts = []
    for unit, end in zip_longest(map(candidates.__getitem__, units), ends):
        behind = [call.name for call in others if unit.left <= call.entered and (end is None or call.entered < end)]
        parts.append(Unit(unit.name, unit.inputs, unit.output, tuple(behind), unit.left == end))
    return Chain(tuple(parts), tuple(images.shape[1:]), images.dtype)


def _outside(call: Call, units: set[str]) -> list[Call]:
    """The modules with layers in `call` that are in no unit and have none in them, the largest."""
    inside = {inner.name for inner in walk(call)}
    if call.name in units or not _computes_with_layers(call):
        return []
    if call.name and not inside & units:
        return [call]
    return [other for child in call.children for other in _outside(child, units)]


def _computes(model: nn.Module, chain: Chain, images: Tensor) -> bool:
    """Is it the network's output that the units give, one by one?"""
    if not chain.units:
        return True
    with evaluating(model):
        expected = model(images.clone())
    x = run_to(model, chain, chain.units[0], images.clone())
    for unit in chain.units:
        x = run_unit(model, chain, unit, x)
        if chain.after(unit) is not None:
            x = run_between(model, chain, unit, x)
    pairs = zip(tree_leaves(run_from(model, chain, x)), tree_leaves(expected), strict=True)
    return all(_close(found, wanted) for found, wanted in pairs)


def _close(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Tensor) or not wanted.is_floating_point():
        return True
    rounding = torch.finfo(wanted.dtype).eps ** 0.5 * wanted.abs().max()
    return bool((found - wanted).abs().max() <= rounding)
