"""What linear layers, convolutions and norms do to labels."""

# B images, C channels in, O channels out, G groups

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_realloc.tracing.labels import Labels, collapsed, compact, labels, varies
from prune_realloc.tracing.operations import unknown
from prune_realloc.tracing.record import Layer, Norm, Record


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[Any]:
    """Arguments by place or name; None for those that are missing."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def _row(record: Record, plane: Tensor, dim: int) -> Tensor:
    """The label of each channel along `dim`, wherever it lies; channels of one index stay or go together."""
    moved = compact(plane.movedim(dim, -1), but=-1)
    rows = moved.reshape(-1, moved.shape[-1])
    top = rows.amax(0)
    if len(rows) > 1:
        record.tie(rows, top)
    return top


def _read(record: Record, x: Any, dim: int) -> tuple[Tensor, list[Tensor]]:
    """Labels of the channels along `dim`, shape (C,), and the planes that do not vary along it."""
    if not isinstance(x, Labels):
        return torch.zeros(x.shape[dim], dtype=torch.float64), []
    dim %= x.ndim
    along = [plane for plane in x.planes if varies(plane, dim) or x.shape[dim] == 1]
    others = [plane for plane in x.planes if not any(plane is p for p in along)]
    if not along and len(others) == 1:  # channels that are all of one label
        along, others = others, []
    rows = [_row(record, plane, dim) for plane in along]
    for row in rows[1:]:
        record.tie(rows[0], row)
    return rows[0] if rows else torch.zeros(x.shape[dim], dtype=torch.float64), others


def linear(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """y = x W' + b: channels are the last dimension."""
    if "weight" not in kwargs and len(args) < 2:
        return unknown(record, func, args, kwargs)
    x, weight, bias = _given(args, kwargs, "input", "weight", "bias")
    if not _is_known(record, weight):
        return _with_computed(record, func, args, kwargs, weight, -1)
    row, others = _read(record, x, -1)
    out = record.ids.along(weight, 0)
    _ties_to_weight(record, row, weight, "its input belongs to no channel")
    _tie_bias(record, bias, out)
    if not isinstance(x, Labels):
        record.freeze(out, "it does not depend on the images")
    shape = (*x.shape[:-1], len(out))
    number = _note(record, "linear", weight, bias, row, x, x.shape[:-1].numel())
    kept = [collapsed(plane, [x.ndim - 1]).expand(shape) for plane in others]
    return labels(shape, [out.expand(shape), *kept], source=number, pure=True)


def conv(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A convolution: channels are dimension 1; groups of several channels tie what lies at one place of each."""
    x, weight, bias, stride, padding, dilation, groups = _given(
        args, kwargs, "input", "weight", "bias", "stride", "padding", "dilation", "groups"
    )
    if not _is_known(record, weight):
        return _with_computed(record, func, args, kwargs, weight, 1)
    groups = groups or 1
    row, others = _read(record, x, 1)
    out = record.ids.along(weight, 0)
    if groups == 1:
        _ties_to_weight(record, row, weight, "it reads what belongs to no channel, such as the image")
    elif groups == len(row):
        record.tie(row.repeat_interleave(len(out) // groups), out)
        if not row.any():
            record.freeze(out, "its input belongs to no channel")
    else:
        inside, outside = record.ids.along(weight, 1), out.reshape(groups, -1)
        record.tie(row.reshape(groups, -1), inside)
        record.tie(outside, outside[0])
        if not row.any():
            record.freeze(inside, "its input belongs to no channel")
    _tie_bias(record, bias, out)
    shape = tuple(
        func(
            torch.empty(x.shape, device="meta"),
            torch.empty(weight.shape, device="meta"),
            None,
            *(stride or 1, padding or 0, dilation or 1, groups),
        ).shape
    )
    spread = (1, -1) + (1,) * (len(shape) - 2)
    number = _note(record, "conv", weight, bias, row, x, int(np.prod([shape[0], *shape[2:]])), groups)
    kept = [collapsed(plane, range(1, x.ndim)) for plane in others]
    return labels(shape, [out.reshape(spread).expand(shape), *kept], source=number, pure=True)


def _with_computed(record: Record, func: Any, args: Any, kwargs: Any, weight: Tensor, channels: int) -> Any:
    """A layer whose weight is no parameter but computed, such as a standardised one: it stays, and costs."""
    out = unknown(record, func, args, kwargs)
    record.computed += out.numel() // out.shape[channels] * weight.numel()
    return out


def _is_known(record: Record, weight: Any) -> bool:
    return id(weight) in record.ids.names


def _ties_to_weight(record: Record, row: Tensor, weight: Tensor, reason: str) -> None:
    """The channels of an input are those along dimension 1 of the weight."""
    inside = record.ids.along(weight, 1)
    record.tie(row, inside)
    if (row == 0).any():
        record.freeze(torch.where(row == 0, inside, 0.0), reason)


def _tie_bias(record: Record, bias: Any, out: Tensor) -> None:
    if isinstance(bias, Labels):  # put together from parts
        for plane in bias.planes:
            record.tie(plane, out)
    elif isinstance(bias, Tensor):
        record.tie(record.ids.along(bias, 0), out)


def _note(
    record: Record, kind: Any, weight: Tensor, bias: Any, row: Tensor, x: Any, positions: int, groups: int = 1
) -> int:
    names = record.ids.names
    layer = Layer(
        number=len(record.layers),
        kind=kind,
        module=record.module,
        weight=names[id(weight)],
        bias=names.get(id(bias)),
        reads=row.numpy().astype(np.int64),
        positions=positions,
        groups=groups,
        source=getattr(x, "source", None),
        pure=getattr(x, "pure", False),
    )
    record.layers.append(layer)
    return layer.number


def layer_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Over the last dimension: statistics of all of its channels."""
    x, shape = args[:2]
    parameters = [t for t in (*args[2:], *kwargs.values()) if isinstance(t, Tensor)]
    if len(tuple(shape)) != 1 or not isinstance(x, Labels):
        return unknown(record, func, args, kwargs)
    return _normalised(record, "layer", x, -1, parameters)


def group_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One group: statistics of all channels and places."""
    x, groups = args[:2]
    if groups != 1 or not isinstance(x, Labels):
        return unknown(record, func, args, kwargs)
    return _normalised(record, "layer", x, 1, [t for t in (*args[2:], *kwargs.values()) if isinstance(t, Tensor)])


def batch_norm(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each channel by itself, with the statistics that are kept."""
    x, *rest = args
    parameters = [t for t in (*rest, *kwargs.values()) if isinstance(t, Tensor)]
    if not isinstance(x, Labels) or not all(id(t) in record.ids.names for t in parameters):
        return unknown(record, func, args, kwargs)
    return _normalised(record, "batch", x, 1, parameters)


def _normalised(record: Record, kind: Any, x: Labels, dim: int, parameters: list[Tensor]) -> Any:
    row, _ = _read(record, x, dim)
    for tensor in parameters:
        ids = record.ids.along(tensor, 0)
        record.tie(row, ids)
        if (row == 0).any():
            record.freeze(torch.where(row == 0, ids, 0.0), "its input belongs to no channel")
    names = [record.ids.names[id(t)] for t in parameters]
    weight = next((name for name in names if name.endswith("weight")), names[0] if names else None)
    found = np.unique(row.numpy()).astype(np.int64)
    record.norms.append(Norm(kind, record.module, weight, found[found > 0], x.source, x.pure))
    if kind == "layer":
        record.normalised.append(found)
    return labels(x.shape, x.planes, source=x.source, plain=kind == "batch" and x.plain)


LAYERS = {
    "linear": linear,
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
}
