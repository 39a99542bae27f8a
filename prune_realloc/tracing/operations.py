"""What each function of torch does to labels, by its name."""

# C channels of a tensor, in the order of its dimensions

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from prune_realloc.tracing.labels import Labels, collapsed, compact, labels, settled, varies, varying
from prune_realloc.tracing.record import Record, Sum

Operation = Callable[[Record, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def labelled(record: Record, x: Any) -> Any:
    """A parameter, or buffer of numbers, as labels of its elements; anything else as it is."""
    if not isinstance(x, Tensor) or isinstance(x, Labels) or not x.is_floating_point():
        return x
    if id(x) in record.ids.names:
        planes = [record.ids.elements(x)] if x.ndim else []  # a single number is of no channel
        return labels(x.shape, planes, parameter=True)
    return x


def same(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Elements stay what they are: changes of type, dropout."""
    return labelled(record, args[0])


def each(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of each element by itself."""
    x = labelled(record, args[0])
    return labels(x.shape, x.planes, source=x.source, parameter=x.parameter)


def moved(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Elements are moved about, repeated, or left out."""
    args, kwargs = tree_map(lambda x: labelled(record, x), (args, kwargs))
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Labels)]
    if func.__name__ in SIZED and any(x.planes for x in tensors):
        record.sized.add(record.module)
    count = max(len(x.planes) for x in tensors)
    runs = [_applied(func, args, kwargs, plane) for plane in range(count)]
    if func.__name__ in ("cat", "concat", "stack"):
        runs = [settled(plane) for plane in runs]
    whole = runs[0] if runs else _applied(func, args, kwargs, None)
    sources, origins = ({getattr(x, mark) for x in tensors} for mark in ("source", "origin"))
    source = sources.pop() if len(sources) == 1 else None
    marks: dict[str, Any] = {
        "source": source,
        "origin": origins.pop() if len(origins) == 1 else None,
        "pure": source is not None and all(x.pure for x in tensors),
        "plain": source is not None and all(x.plain for x in tensors),
        "parameter": all(x.parameter for x in tensors),
    }
    if isinstance(whole, Tensor):
        return labels(whole.shape, runs, **marks)
    parts = zip(*runs, strict=True) if runs else [()] * len(whole)
    return type(whole)(labels(part.shape, planes, **marks) for part, planes in zip(whole, parts, strict=True))


def _applied(func: Any, args: Any, kwargs: Any, plane: int | None) -> Any:
    """`func` on one plane of all labels; where one has fewer, on nothing."""

    def pick(x: Any) -> Any:
        if not isinstance(x, Labels):
            return x
        if plane is not None and plane < len(x.planes):
            return x.planes[plane]
        return torch.zeros((), dtype=torch.float64).expand(x.shape)

    args, kwargs = tree_map(pick, (args, kwargs))
    if func.__name__ == "view":  # labels may be laid out otherwise than numbers
        return args[0] if isinstance(args[1], torch.dtype) else torch.reshape(args[0], _sizes(args[1:]))
    if func.__name__ == "pad":
        return F.pad(args[0], args[1])
    return func(*args, **kwargs)


def _sizes(args: tuple[Any, ...]) -> Sequence[int]:
    return args[0] if len(args) == 1 and not isinstance(args[0], int) else args


def combined(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of the elements of two tensors that meet: they stay or go together."""
    a, b = (labelled(record, x) for x in args[:2])
    out = _combined(record, func, a, b)
    if func.__name__ in _SUMS and all(isinstance(x, Labels) and not x.parameter for x in (a, b)):
        for x in (a, b, out):
            record.mark(x)
        record.sums.append(Sum(record.module, (a, b), out))
    return out


def _combined(record: Record, func: Any, a: Any, b: Any) -> Labels:
    if not isinstance(a, Labels) or (isinstance(b, Labels) and a.parameter and not b.parameter):
        a, b = b, a
    if not isinstance(b, Tensor):
        scaled = func.__name__ in _SCALES
        pure, plain = a.pure and scaled, a.plain and scaled
        return labels(a.shape, a.planes, source=a.source, pure=pure, plain=plain, parameter=a.parameter)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    ours = [_lifted(plane, shape) for plane in a.planes]
    theirs = [_lifted(plane, shape) for plane in b.planes] if isinstance(b, Labels) else []
    parameter = isinstance(b, Labels) and b.parameter
    if not theirs or not ours:
        for plane in ours:
            _meets(record, plane, b.shape, "it meets numbers that belong to no channel")
        for plane in theirs:
            _meets(record, plane, a.shape, "it meets numbers that belong to no channel")
        return labels(shape, ours or ([] if parameter else theirs), parameter=a.parameter and not theirs)
    planes = _joined(record, ours, theirs, a.shape, b.shape, parameter)
    source = a.source if parameter else None
    plain = source is not None and a.plain and func.__name__ in ("mul", "mul_", "__mul__", "__rmul__", "__imul__")
    if source is not None and plain:
        name = record.ids.name_of(int(compact(theirs[0]).max()))
        record.scales.append((name, source))
    return labels(shape, planes, source=source, plain=plain, parameter=a.parameter and parameter)


_SCALES = ("mul", "mul_", "div", "div_", "true_divide", "neg")
_SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")


def _lifted(plane: Tensor, shape: Sequence[int]) -> Tensor:
    return plane[(None,) * (len(shape) - plane.ndim)].expand(tuple(shape))


def _meets(record: Record, plane: Tensor, other: Sequence[int], reason: str) -> None:
    """Freeze labels that vary along a dimension in which the other side has several numbers."""
    sizes = [1] * (plane.ndim - len(other)) + list(other)
    along = [sizes[dim] > 1 for dim in varying(plane)]
    if any(along):
        record.freeze(plane, reason, heads_may_go=not all(along))


def _joined(
    record: Record,
    ours: list[Tensor],
    theirs: list[Tensor],
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    parameter: bool,
) -> list[Tensor]:
    """Planes that vary alike are tied; one that is spread over a dimension of the other is not."""
    left, planes = list(theirs), []
    for plane in ours:
        match = next((t for t in left if _alike(plane, t, a_shape, b_shape)), None)
        if match is None:
            planes.append(plane)
            continue
        left = [t for t in left if t is not match]
        record.tie(plane, match)
        planes.append(torch.where(plane != 0, plane, match) if (plane == 0).any() else plane)
    for plane in left:
        above = next((p for p in ours if varying(plane) and set(varying(plane)) < set(varying(p))), None)
        if parameter and above is not None:  # a number for each head, or for each channel of several layers
            record.tie(record.grouped(above, varying(plane)), collapsed(plane, _but(plane.ndim, varying(plane))))
        elif parameter:
            record.freeze(plane, "a parameter is spread over channels")
        else:
            planes.append(plane)
    return planes


def _but(ndim: int, dims: Sequence[int]) -> list[int]:
    return [dim for dim in range(ndim) if dim not in dims]


def _alike(a: Tensor, b: Tensor, a_shape: Sequence[int], b_shape: Sequence[int]) -> bool:
    """May the elements of one belong to those of the other: neither is spread along a dimension of the other."""

    def spread(shape: Sequence[int], dim: int) -> bool:
        sizes = [1] * (a.ndim - len(shape)) + list(shape)
        return sizes[dim] == 1 and a.shape[dim] > 1

    va, vb = varying(a), varying(b)
    if not va or not vb:
        return True
    return not any(spread(b_shape, dim) for dim in va) and not any(spread(a_shape, dim) for dim in vb)


def reduced(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A mean, sum or largest of all elements along some dimensions."""
    x = labelled(record, args[0])
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    dims = list(range(x.ndim)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    dims = sorted({dim % x.ndim for dim in dims})
    planes = []
    for plane in x.planes:
        if any(varies(plane, dim) for dim in dims):
            record.freeze(plane, f"{func.__name__} over channels")
        else:
            planes.append(collapsed(plane, dims))
    shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    made = labels(shape, planes, parameter=x.parameter)
    if not keep:
        for dim in reversed(dims):
            made = labels(
                [s for d, s in enumerate(made.shape) if d != dim],
                [plane.squeeze(dim) for plane in made.planes],
                parameter=x.parameter,
            )
    return made


def largest(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`max(x, dim)` and `min`: values and places; of two tensors, of all elements."""
    if len(args) > 1 and isinstance(args[1], Tensor):
        return combined(record, func, args, kwargs)
    out = reduced(record, func, args, kwargs)
    return out if len(args) == 1 and "dim" not in kwargs else (out, labels(out.shape))


def normalised(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Softmax, or a division by a length, along a dimension."""
    x = labelled(record, args[0])
    power = func.__name__ in ("normalize",)
    default = 1 if power else -1
    place = 2 if power else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else default)
    for plane in x.planes:
        if varies(plane, dim % x.ndim):
            if power:
                record.lengths.append(np.unique(compact(plane).numpy()))
            else:
                record.freeze(plane, f"{func.__name__} over channels")
    return labels(x.shape, x.planes)


def length(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The length of a vector: channels that are zero do not matter to it."""
    x = args[0]
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    dims = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    for plane in x.planes:
        if any(varies(plane, d % x.ndim) for d in dims):
            record.lengths.append(np.unique(compact(plane).numpy()))
    still = [p for p in x.planes if not any(varies(p, d % x.ndim) for d in dims)]
    return reduced(record, func, (labels(x.shape, still), dims, kwargs.get("keepdim", False)), {})


def pooled(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pooling over places: an element of the output belongs to the channel of those that it is made of."""
    x, name = args[0], func.__name__
    out = func(torch.zeros(()).expand(x.shape), *args[1:], **kwargs)
    if isinstance(out, tuple):
        out = out[0]
    planes = []
    spatial = [x.ndim - 1] if "1d" in name else [x.ndim - 2, x.ndim - 1]
    for plane in x.planes:
        if any(varies(plane, dim) for dim in spatial):
            record.freeze(plane, f"{name} over channels")
        planes.append(collapsed(plane, spatial).expand(out.shape))
    return labels(out.shape, planes)


def where(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    condition, *rest = args
    if isinstance(condition, Labels):
        return unknown(record, func, args, kwargs)
    return combined(record, torch.add, tuple(rest), {})


def written(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x[place] = y`."""
    x, place, y = args
    if not isinstance(x, Labels):
        return unknown(record, func, args, kwargs)
    y = labelled(record, y)
    if not isinstance(y, Labels):
        return None
    planes = []
    for n in range(max(len(x.planes), len(y.planes))):
        both = [t.planes[n] if n < len(t.planes) else torch.zeros(t.shape, dtype=torch.float64) for t in (x, y)]
        plane = both[0].clone().contiguous()
        plane[place] = both[1]
        planes.append(plane)
    x.planes, x.source, x.pure = tuple(planes), None, False
    return None


def filled(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new tensor like another one, of numbers that belong to no channel."""
    return labels(func(torch.zeros(()).expand(args[0].shape), *args[1:], **kwargs).shape)


def unknown(record: Record, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str | None = None) -> Any:
    """Whatever else: all channels that go into it must stay."""
    reason = reason or f"{getattr(func, '__name__', func)} is not known"
    args, kwargs = tree_map(lambda x: labelled(record, x), (args, kwargs))
    for x in tree_leaves((args, kwargs)):
        if isinstance(x, Labels):
            for plane in x.planes:
                record.freeze(plane, reason)

    def numbers(x: Any) -> Any:
        return torch.ones(x.shape) if isinstance(x, Labels) else x

    args, kwargs = tree_map(numbers, (args, kwargs))
    out = func(*args, **kwargs)
    return tree_map(lambda x: labels(x.shape) if isinstance(x, Tensor) else x, out)


SIZED = (
    *("reshape", "view", "reshape_as", "view_as", "expand", "expand_as", "repeat", "split", "split_with_sizes"),
    *("chunk", "unflatten", "tensor_split", "narrow", "__getitem__", "tile", "pixel_shuffle", "pixel_unshuffle"),
)
"""Moves that may name the number of channels."""
