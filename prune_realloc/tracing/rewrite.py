"""Forward passes that name numbers of channels, written anew for the channels that are left.

A module that reshapes `(B, N, 3 * 4 * 32)` to `(B, N, 3, 4, 32)` cannot run once some of the 32 are gone. Its forward
pass is traced (torch.fx), run on labels to learn which channels lie where, and the sizes in it are set to what is left.
Where queries and values, which lie side by side in one tensor, are no longer of one width, each is taken out of the
layer's output before it is reshaped.
"""

from __future__ import annotations

import linecache
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from prune_realloc.core.errors import InputError
from prune_realloc.tracing.guided import Written, written
from prune_realloc.tracing.labels import Labels, labels, varies
from prune_realloc.tracing.left import Left, Uneven
from prune_realloc.tracing.pieces import piece_
from prune_realloc.tracing.ranges import narrowed_, sliced_
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.run import shell

_SHAPING = ("reshape", "view", "expand", "unflatten")


def rewrite_(model: nn.Module, source: nn.Module, record: Record, left: Left) -> list[str]:
    """Let `model`, whose parameters were cut from those of `source`, run.

    Args:
        source: the whole network; `record` is of it.
        left: which labels are left.

    Returns:
        Why some modules were left as they are; what they name may fit all the same.

    Raises:
        InputError: a forward pass cannot be written for what is left.
    """
    whole: list[str] = []
    modules = shell(source)
    for name in sorted(record.sized):
        module = modules.get_submodule(name)
        if not _is_touched(record, name, left):
            continue
        found = _written(module, record, *record.calls[name][:2])
        if isinstance(found, str):
            whole.append(f"{name} ({type(module).__name__}): {found}")
            continue
        try:
            changed = _resized_(found.graph, found.values, left)
        except Uneven as error:
            raise InputError(
                f"{name} ({type(module).__name__}): {error}; keep its channels whole, or the same number in each part"
            ) from error
        if changed:
            _set_forward_(model.get_submodule(name), found)
    return whole


def _is_touched(record: Record, name: str, left: Left) -> bool:
    """Does the module take, give, or hold anything of which something goes?"""
    own = [run for run in record.ids.all_runs() if run.name.startswith(f"{name}." if name else "")]
    return any(not left.alive[run.start : run.start + run.size].all() for run in own) or any(
        left.loses(x) for x in record.calls[name][0] if isinstance(x, Labels)
    )


def _written(module: nn.Module, record: Record, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written | str:
    """The forward pass, of two images where that can be, so that their dimension is none of size 1."""
    found = written(module, record, *tree_map(_of_two, (args, kwargs)))
    return written(module, record, args, kwargs) if isinstance(found, str) else found


def _of_two(x: Any) -> Any:
    if not isinstance(x, Labels) or not x.ndim or x.shape[0] != 1:
        return x
    return labels((2, *x.shape[1:]), x.planes, source=x.source, pure=x.pure, parameter=x.parameter)


def _resized_(graph: fx.Graph, values: dict[fx.Node, Any], left: Left) -> bool:
    """Sets the sizes in a graph to what is left; was there anything to be done?

    Raises:
        Uneven: what is left of a tensor is no box, and nobody takes even parts out of it.
    """
    changed = False
    for node in list(graph.nodes):
        name, value = _name(node), values.get(node)
        if isinstance(value, Labels) and not left.is_box(value):
            if all(_is_move(user) for user in node.users):
                continue  # its parts are looked at one by one
            raise Uneven(f"{name} of unlike parts")
        sides = [x for x in node.all_input_nodes if isinstance(values.get(x), Labels)]
        if (isinstance(value, Labels) and any(not left.is_box(values[x]) for x in sides)) or _from_uneven(
            node, values, left
        ):
            if isinstance(value, Labels):
                values[piece_(graph, node, values, left)] = value
                changed = True
            continue
        changed |= _set_sizes_(graph, node, name, values, left)
    _settle_shapes_(graph, values, left)
    graph.eliminate_dead_code()
    graph.lint()
    return changed


def _from_uneven(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    """Is it one of several parts of something uneven?"""
    for x in node.all_input_nodes:
        value = values.get(x)
        if isinstance(value, tuple | list):
            above = [y for y in x.all_input_nodes if isinstance(values.get(y), Labels)]
            if any(not left.is_box(values[y]) for y in above):
                return True
    return False


def _name(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


_MOVES = (
    *("reshape", "view", "permute", "transpose", "flatten", "unflatten", "unbind", "getitem", "chunk", "split"),
    *("squeeze", "unsqueeze", "contiguous", "movedim"),
)


def _is_move(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and _name(node) in _MOVES


def _set_sizes_(graph: fx.Graph, node: fx.Node, name: str, values: dict[fx.Node, Any], left: Left) -> bool:
    value = values.get(node)
    if node.op not in ("call_method", "call_function"):
        return False
    if name in _SHAPING and isinstance(value, Labels):
        return _reshaped_(graph, node, name, value, values, left)
    if name in ("chunk", "split") and isinstance(value, tuple | list) and isinstance(value[0], Labels):
        return _split_(graph, node, values, left)
    if name == "getitem" and isinstance(value, Labels):
        return sliced_(node, values, left)
    if name == "narrow" and isinstance(value, Labels):
        return narrowed_(node, values, left)
    if name == "scaled_dot_product_attention":
        return _scaled_(node, values, left)
    return False


def _reshaped_(
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
            # it may hold the number of images too, which only a call tells
            inferred = derived and name != "expand" and -1 not in sizes
            sizes[place], changed = -1 if inferred else wanted, True
    if changed:
        node.args = (*node.args[:first], tuple(sizes)) if together else (*node.args[:first], *sizes)
    return changed


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
        return tuple(_along(tensor, dim, left) for dim in range(tensor.ndim))
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
    if _name(node) == "size" and node.op == "call_method" and len(node.args) == 2:
        tensor, dim = node.args
    elif _name(node) == "getitem" and _is_shape(node.args[0]):
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
    named = node.op == "call_function" and _name(node) == "getattr" and node.args[1:] == ("shape",)
    return named or (node.op == "call_method" and _name(node) == "size" and len(node.args) == 1)


def _split_(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Any], left: Left) -> bool:
    value: Sequence[Labels] = values[node]
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    assert isinstance(dim, int)
    sizes = [left.shape(part)[dim] for part in value]
    if sizes == [part.shape[dim] for part in value]:
        return False
    with graph.inserting_before(node):
        made = graph.call_function(torch.split, (node.args[0], sizes, dim))
    node.replace_all_uses_with(made)
    values[made] = value
    return True


def _scaled_(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    """The logits keep the scale of the source."""
    query = values.get(node.args[0])  # type: ignore[arg-type]
    if not isinstance(query, Labels) or node.kwargs.get("scale") is not None:
        return False
    if left.shape(query)[-1] == query.shape[-1]:
        return False
    node.kwargs = {**node.kwargs, "scale": query.shape[-1] ** -0.5}
    return True


def _settle_shapes_(graph: fx.Graph, values: Mapping[fx.Node, Any], left: Left) -> None:
    """Numbers of channels that are still read off, for scales and the like, are those of the source."""
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        found = _read_off(node, values)
        if found is None:
            continue
        tensor, dim = found
        value = values[tensor]
        if not left.is_box(value) or left.shape(value)[dim] == value.shape[dim]:
            continue
        for user in list(node.users):
            if _name(user) not in _SHAPING:
                user.replace_input_with(node, value.shape[dim])


def _set_forward_(module: nn.Module, found: Written) -> None:
    """The module in a class like its own, with a forward pass that was written anew."""
    for name, tensor in found.constants.items():
        module.register_buffer(name, tensor, persistent=False)
    code = found.graph.python_code("self")
    lines = f"<forward of {type(module).__name__}, written anew>"
    linecache.cache[lines] = (len(code.src), None, code.src.splitlines(True), lines)
    scope: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, lines, "exec"), scope)
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"forward": scope["forward"], "__module__": kind.__module__})
