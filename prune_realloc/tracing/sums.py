"""What a unit adds to what it takes: where its residual connections are."""

from __future__ import annotations

from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from prune_realloc.tracing.labels import Labels, varies
from prune_realloc.tracing.record import Layer, Record


@dataclass(frozen=True, eq=False)
class Added:
    """One of the tensors that a unit adds to its stream."""

    labels: Labels
    module: str | None
    """The last module in the unit that gives it out; a factor may be applied to it before it is added."""
    dim: int
    """Of what that module gives, the dimension that runs over channels."""
    writer: Layer | None
    """The layer that wrote it, channel by channel; None for a pooling and the like."""


def added(record: Record, unit: str) -> tuple[Added, ...]:
    """What a unit adds, in order; nothing if it gives out anything but its input with something added."""
    (taken, *others), given = _tensors(record.calls[unit][:2]), _tensors(record.calls[unit][2])
    if others or len(given) != 1 or given[0].shape != taken.shape:
        return ()
    state, found = taken.origin, []
    for each in record.sums:
        if not _inside(each.module, unit) or each.out.numel() != taken.numel():
            continue
        for mine, other in (each.sides, each.sides[::-1]):
            if mine.origin == state:
                found.append(_described(record, unit, other))
                state = each.out.origin
                break
    return tuple(found) if given[0].origin == state else ()


def channel_dim(x: Labels) -> int:
    """The dimension of a tensor that runs over channels: the last where its labels vary along several or none."""
    dims = [dim for dim in range(1, x.ndim) if any(varies(plane, dim) for plane in x.planes)]
    return -1 if len(dims) != 1 or dims[0] == x.ndim - 1 else dims[0]


def taken(record: Record, unit: str) -> list[Labels]:
    """The tensors that a unit is called with."""
    return _tensors(record.calls[unit][:2])


def given(record: Record, unit: str) -> list[Labels]:
    """The tensors that it gives."""
    return _tensors(record.calls[unit][2])


def _described(record: Record, unit: str, x: Labels) -> Added:
    writer = None if x.source is None else record.layers[x.source]
    module = None
    for name, (_, _, out) in record.calls.items():
        if _inside(name, unit) and name != unit and isinstance(out, Labels):
            same = out.origin == x.origin and out.numel() == x.numel()
            if same or (writer is not None and out.source == writer.number and out.plain):
                module = name
    dim = -1 if module is None else channel_dim(record.calls[module][2])
    return Added(x, module, dim, writer)


def _inside(module: str, unit: str) -> bool:
    return module == unit or module.startswith(f"{unit}.")


def _tensors(value: object) -> list[Labels]:
    return [x for x in tree_leaves(value) if isinstance(x, Labels)]
