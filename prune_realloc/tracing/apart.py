"""Modules with channels of their own: what stands for units where no chain of them can be followed."""

from __future__ import annotations

from collections.abc import Sequence

from prune_realloc.core.structure import common_module
from prune_realloc.tracing.classes import Classes
from prune_realloc.tracing.record import Record


def most_layers_within(record: Record, units: Sequence[str]) -> bool:
    """Does the chain pass through half of the layers or more?"""
    within = sum(any(layer.weight.startswith(f"{unit}.") for unit in units) for layer in record.layers)
    return 2 * within >= len(record.layers)


def modules_apart(record: Record, classes: Classes) -> tuple[str, ...]:
    """The innermost modules that have channels which lie in no parameter outside, in the order of their layers.

    Such as an attention or an MLP of a block that takes two streams. A single layer counts as the module around it.
    """
    layers = {layer.module for layer in record.layers}
    found: dict[str, None] = {}
    for number, positions in classes.positions.items():
        if number not in classes.frozen:
            module = common_module([name for name, _, _ in positions])
            found[module.rpartition(".")[0] if module in layers else module] = None
    called = [module for module in found if module in record.calls]
    return tuple(one for one in called if not any(other.startswith(f"{one}.") for other in called))
