"""Units of the chain that are parts of one: what passes between them is nobody else's."""

from __future__ import annotations

from collections.abc import Collection

from prune_realloc.tracing.candidates import Traced


def joined(traced: Traced, residual: Collection[int]) -> list[str]:
    """Modules that are one unit rather than several, such as three convolutions with no residual around them.

    They are the innermost ones around two units or more, none of which adds to a stream, where channels pass between
    these that the module neither takes nor gives, and that lie in no parameter outside.
    """
    parents = dict.fromkeys(_parent(traced, unit) for unit in traced.units)
    return [parent for parent in parents if parent and _is_one(traced, parent, residual)]


def _parent(traced: Traced, unit: str) -> str:
    """The innermost module around a unit that is called itself."""
    while unit:
        unit = unit.rpartition(".")[0]
        if unit in traced.record.calls:
            return unit
    return ""


def _is_one(traced: Traced, parent: str, residual: Collection[int]) -> bool:
    inside = [number for number, unit in enumerate(traced.units) if unit.startswith(f"{parent}.")]
    if len(inside) < 2 or not set(inside).isdisjoint(residual):
        return False
    args, kwargs, out = traced.record.calls[parent]
    outer = {*traced.row((args, kwargs)), *traced.row(out)}  # of streams
    between = set().union(*(traced.rows[number] for number in inside[:-1])) - outer
    places = [position for number in between for position in traced.classes.positions.get(number, [])]
    return bool(between) and all(name.startswith(f"{parent}.") for name, _, _ in places)
