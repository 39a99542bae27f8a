"""Numbers of channels that a forward pass names where it shapes tensors, set to what is left.

Some are written down, some read off tensors, some computed of such. What is computed of how many images there are is
still computed so.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from prune_realloc.tracing.labels import Labels, compact, varies
from prune_realloc.tracing.left import Left

SHAPING = ("reshape", "view", "expand", "unflatten")


def name_of(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def reshaped_(
    graph: fx.Graph, node: fx.Node, name: str, value: Labels, values: Mapping[fx.Node, Any], left: Left
) -> bool:
    new = left.shape(value)
    first = 2 if name == "unflatten" else 1
    given: Any = node.args[first:]
    together = len(given) == 1 and isinstance(_value(given[0], values), list | tuple)
    sizes = _parts_of(graph, node, given[0], values) if together else list(given)
    args: tuple[Any, ...] = node.args
    start = args[1] % values[args[0]].ndim if name == "unflatten" else 0
    changed = False
    for place, size in enumerate(sizes):
        wanted, now = new[place + start], _size_now(size, values, left)
        # what is computed of a size that changes is not to be: other numbers are computed of the source's
        derived = isinstance(size, fx.Node) and _read_off(size, values) is None and now != _value(size, values)
        if now != -1 and (now != wanted or derived):
            counted = now is not None and _counts_images(size, values)
            sizes[place] = _times(graph, node, size, wanted, _value(size, values)) if counted else wanted
            changed = True
    if changed:
        node.args = (*node.args[:first], tuple(sizes)) if together else (*node.args[:first], *sizes)
    return changed


def _counts_images(size: Any, values: Mapping[fx.Node, Any]) -> bool:
    """Is it computed of how many images or places there are: of a dimension in which channels come more than once?"""
    if not isinstance(size, fx.Node) or isinstance(values.get(size), Labels):
        return False
    found = _read_off(size, values)
    if found is None:
        return any(_counts_images(part, values) for part in size.all_input_nodes)
    return _repeats(values[found[0]], found[1])


def _repeats(x: Labels, dim: int) -> bool:
    lines = [compact(plane, but=dim).movedim(dim, 0).flatten(1)[:, 0] for plane in x.planes if varies(plane, dim)]
    return all(len(line.unique()) < len(line) for line in lines)


def _times(graph: fx.Graph, node: fx.Node, size: fx.Node, new: int, old: int) -> fx.Node:
    """What is `new` where `size` is `old`, and grows with it, for `node`."""
    shared = math.gcd(new, old)
    for step, factor in ((operator.mul, new // shared), (operator.floordiv, old // shared)):
        if factor != 1:
            with graph.inserting_before(node):
                size = graph.call_function(step, (size, factor))
    return size


def _value(x: Any, values: Mapping[fx.Node, Any]) -> Any:
    """What a node gave in the source; of a step of our own, what it is computed of says it."""
    if not isinstance(x, fx.Node):
        return x
    if x not in values and x.target is operator.getitem:
        return _value(x.args[0], values)[x.args[1]]
    return values.get(x)


def _parts_of(graph: fx.Graph, node: fx.Node, sizes: Any, values: Mapping[fx.Node, Any]) -> list[Any]:
    """The numbers in a list of sizes, each by itself."""
    if isinstance(sizes, list | tuple):
        return list(sizes)
    with graph.inserting_before(node):
        return [graph.call_function(operator.getitem, (sizes, i)) for i in range(len(_value(sizes, values)))]


def _size_now(size: Any, values: Mapping[fx.Node, Any], left: Left) -> Any:
    """What a number in the forward pass, or a list of them, will be; None where nothing tells it.

    Sizes are read off tensors, or computed of such.
    """
    if isinstance(size, list | tuple):
        return type(size)(_size_now(part, values, left) for part in size)
    if not isinstance(size, fx.Node):
        return size
    found, was = _read_off(size, values), _value(size, values)
    if found is not None:
        return _along(values[found[0]], found[1], left)
    if size.op not in ("call_function", "call_method") or not isinstance(was, int | list | tuple):
        return was
    args: tuple[Any, ...] = size.args
    tensor = values.get(args[0]) if args and isinstance(args[0], fx.Node) else None
    if isinstance(tensor, Labels):
        sizes = tuple(_along(tensor, dim, left) for dim in range(tensor.ndim))
        if name_of(size) == "numel":
            return None if None in sizes else math.prod(sizes)
        return sizes if _is_shape(size) else was
    parts = [_size_now(part, values, left) for part in args]
    partly = size.target is not operator.getitem and any(isinstance(x, tuple) and None in x for x in parts)
    if None in parts or partly:
        return None if isinstance(was, int) else (None,) * len(was)
    target: Any = size.target
    return target(*parts) if size.op == "call_function" else was


def _along(x: Labels, dim: int, left: Left) -> int | None:
    """The size of a tensor along a dimension; None where it is not the same in all rows."""
    if left.is_box(x):
        return left.shape(x)[dim]
    return None if any(varies(plane, dim) for plane in x.planes) else x.shape[dim]


def _read_off(node: Any, values: Mapping[fx.Node, Any]) -> tuple[fx.Node, int] | None:
    """The tensor and the dimension whose size a node is."""
    if not isinstance(node, fx.Node):
        return None
    if name_of(node) == "size" and node.op == "call_method" and len(node.args) == 2:
        tensor, dim = node.args
    elif name_of(node) == "len":
        tensor, dim = node.args[0], 0
    elif name_of(node) == "getitem" and _is_shape(node.args[0]):
        shape: Any = node.args[0]
        tensor, dim = shape.args[0], node.args[1]
    else:
        return None
    value = values.get(tensor)  # type: ignore[arg-type]
    if not isinstance(value, Labels) or not isinstance(dim, int):
        return None
    return tensor, dim % value.ndim  # type: ignore[return-value]


def _is_shape(node: Any) -> bool:
    """Is it all sizes of a tensor?"""
    if not isinstance(node, fx.Node):
        return False
    named = node.op == "call_function" and name_of(node) == "getattr" and node.args[1:] == ("shape",)
    return named or (node.op == "call_method" and name_of(node) == "size" and len(node.args) == 1)


def settle_shapes_(graph: fx.Graph, values: Mapping[fx.Node, Any], left: Left) -> None:
    """Numbers of channels that are still read off, for scales and the like, are those of the source.

    A number of channels times images grows with the images as in the source.
    """
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        found = _read_off(node, values)
        if found is None:
            continue
        tensor, dim = found
        value = values[tensor]
        if not left.is_box(value) or left.shape(value)[dim] == value.shape[dim]:
            continue
        for user in [user for user in node.users if name_of(user) not in SHAPING]:
            old, new = value.shape[dim], left.shape(value)[dim]
            size: Any = _times(graph, user, node, old, new) if _repeats(value, dim) else old
            user.replace_input_with(node, size)
