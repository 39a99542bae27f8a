"""Units of the chain that give out what they take, with something added."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Gate
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.chain import Chain, muted, run_between, run_to, run_unit
from prune_realloc.tracing.labels import Labels
from prune_realloc.tracing.record import Layer


@torch.no_grad()
def residual_units(traced: Traced, model: nn.Module, chain: Chain, images: Tensor) -> set[int]:
    """Units that could go whole: without what their layers add, they give out what they take.

    That is tried on `images`: a module that scales what it takes by a factor of each channel has the same labels.
    """
    likely = {unit for unit in range(len(traced.units)) if _keeps_labels(traced, unit)}
    gates = {unit: [gate.module for gate in adding_gates(traced, unit)] for unit in likely}
    found: set[int] = set()
    x = run_to(model, chain, traced.units[0], images) if any(gates.values()) else images
    for unit in range(max((unit for unit in likely if gates[unit]), default=-1) + 1):
        name = traced.units[unit]
        if gates.get(unit):
            with muted(model, name, [gate.removeprefix(f"{name}.") for gate in gates[unit]]):
                alone = run_unit(model, chain, name, x)
            found |= {unit} if alone.shape == x.shape and torch.equal(alone, x) else set()
        x = run_unit(model, chain, name, x)
        if chain.after(name) is not None:
            x = run_between(model, chain, name, x)
    return found


def _keeps_labels(traced: Traced, unit: int) -> bool:
    """Does it give out the channels that it takes?"""
    args, kwargs, out = traced.record.calls[traced.units[unit]]
    given = traced.row(out)
    return bool(given) and set(given) <= set(traced.row((args, kwargs)))


def adding_gates(traced: Traced, unit: int) -> tuple[Gate, ...]:
    """At what is added to the stream: the last module behind each layer that writes it."""
    name = traced.units[unit]
    stream = set(traced.row(traced.record.calls[name][2]))
    found: dict[int, Gate] = {}
    for layer in writers(traced, unit, stream):
        dim, width = (-1 if layer.kind == "linear" else 1), traced.record.ids.runs[layer.weight, 0].size
        for module, (_, _, out) in traced.record.calls.items():
            if module.startswith(f"{name}.") and isinstance(out, Labels) and out.source == layer.number:
                dims = [d for d in (dim, -1, 1) if -out.ndim <= d < out.ndim and out.shape[d] == width]
                if dims:
                    found[layer.number] = Gate(module, "output", np.arange(width)[None], dims[0])
    return tuple(found.values())


def writers(traced: Traced, unit: int, stream: Iterable[int]) -> list[Layer]:
    """Layers in a unit that write the stream."""
    stream, name = set(stream), traced.units[unit]
    found = []
    for layer in traced.record.layers:
        if layer.weight.startswith(f"{name}."):
            rows = traced.classes.along(traced.record.ids.runs[layer.weight, 0])[1]
            if set(rows.tolist()) & stream:
                found.append(layer)
    return found
