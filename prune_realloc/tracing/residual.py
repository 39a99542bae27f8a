"""Units of the chain that give out what they take, with something added."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from prune_realloc.core.structure import Gate
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.record import Layer


def residual_units(traced: Traced) -> set[int]:
    """Units that may go whole: what each adds can be watched."""
    return {unit for unit, parts in enumerate(traced.added) if parts and all(each.module is not None for each in parts)}


def adding_gates(traced: Traced, unit: int) -> tuple[Gate, ...]:
    """At the modules that give out what is added to the stream."""
    found = {}
    for each in traced.added[unit]:
        assert each.module is not None, traced.units[unit]
        width = traced.record.calls[each.module][2].shape[each.dim]
        found[each.module] = Gate(each.module, "output", np.arange(width)[None], each.dim)
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
