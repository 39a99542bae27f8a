"""Forward passes that name numbers of channels, written anew for the channels that are left.

A module that reshapes `(B, N, 3 * 4 * 32)` to `(B, N, 3, 4, 32)` cannot run once some of the 32 are gone. Its forward
pass is traced (torch.fx), run on labels to learn which channels lie where, and the sizes in it are set to what is left.
Where queries and values, which lie side by side in one tensor, are no longer of one width, each is taken out of the
layer's output before it is reshaped.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from prune_realloc.core.errors import InputError
from prune_realloc.tracing.guided import Written, written
from prune_realloc.tracing.labels import Labels
from prune_realloc.tracing.left import Left, Uneven
from prune_realloc.tracing.pieces import piece_
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
        found = written(module, record, *record.calls[name][:2])
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
        return _reshaped_(node, name, value, values, left)
    if name in ("chunk", "split") and isinstance(value, tuple | list) and isinstance(value[0], Labels):
        return _split_(graph, node, values, left)
    if name == "getitem" and isinstance(value, Labels):
        return _sliced_(node, values, left)
    if name == "narrow" and isinstance(value, Labels):
        return _narrowed_(node, values, left)
    if name == "scaled_dot_product_attention":
        return _scaled_(node, values, left)
    return False


def _reshaped_(node: fx.Node, name: str, value: Labels, values: Mapping[fx.Node, Any], left: Left) -> bool:
    new = left.shape(value)
    first = 2 if name == "unflatten" else 1
    listed = len(node.args) > first and isinstance(node.args[first], list | tuple)
    sizes: list[Any] = list(node.args[first]) if listed else list(node.args[first:])  # type: ignore[arg-type]
    args: tuple[Any, ...] = node.args
    start = args[1] % values[args[0]].ndim if name == "unflatten" else 0
    changed = False
    for place, size in enumerate(sizes):
        wanted = new[place + start]
        # what is computed of sizes is computed of those of the source, see `_settle_shapes_`
        computed = (
            isinstance(size, fx.Node) and _read_off(size, values) is None and wanted != value.shape[place + start]
        )
        if computed or _size_now(size, values, left) not in (wanted, -1):
            sizes[place], changed = wanted, True
    if changed:
        node.args = (*node.args[:first], tuple(sizes)) if listed else (*node.args[:first], *sizes)
    return changed


def _size_now(size: Any, values: Mapping[fx.Node, Any], left: Left) -> Any:
    """What a number in the forward pass will be: sizes that are read off tensors, and what is computed of them."""
    if not isinstance(size, fx.Node):
        return size
    found = _read_off(size, values)
    if found is not None:
        return left.shape(values[found[0]])[found[1]] if left.is_box(values[found[0]]) else None
    if size.op == "call_function" and isinstance(values.get(size), int):
        parts = [_size_now(part, values, left) for part in size.args]
        target: Any = size.target
        return None if None in parts else target(*parts)
    return values.get(size)


def _read_off(node: Any, values: Mapping[fx.Node, Any]) -> tuple[fx.Node, int] | None:
    """The tensor and the dimension whose size a node is."""
    if not isinstance(node, fx.Node):
        return None
    if _name(node) == "size" and len(node.args) == 2:
        tensor, dim = node.args
    elif _name(node) == "getitem" and isinstance(node.args[0], fx.Node) and _name(node.args[0]) in ("getattr", "size"):
        tensor, dim = node.args[0].args[0], node.args[1]
    else:
        return None
    value = values.get(tensor)  # type: ignore[arg-type]
    if not isinstance(value, Labels) or not isinstance(dim, int):
        return None
    return tensor, dim % value.ndim  # type: ignore[return-value]


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


def _sliced_(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    """`x[.., a:b]`."""
    tensor, index = node.args
    x = values.get(tensor)  # type: ignore[arg-type]
    if not isinstance(x, Labels):
        return False
    places = list(index) if isinstance(index, tuple) else [index]
    dims = _indexed_dims(places, x.ndim)
    changed = False
    for at, (place, dim) in enumerate(zip(places, dims, strict=True)):
        alive = None if dim is None else left.along(x, dim)
        if alive is None or alive.all():
            continue
        if isinstance(place, slice) and place.step is None:
            bounds = [_moved_bound(bound, alive) for bound in (place.start, place.stop)]
            places[at], changed = slice(*bounds), True
        elif isinstance(place, int):
            if not alive[place]:
                raise Uneven("a channel that is taken by its place went")
            places[at], changed = int(alive[: place % len(alive)].sum()), True
    if changed:
        node.args = (tensor, tuple(places) if isinstance(index, tuple) else places[0])
    return changed


def _indexed_dims(places: Sequence[Any], ndim: int) -> list[int | None]:
    taken = sum(place is not None and place is not Ellipsis for place in places)
    dims: list[int | None] = []
    dim = 0
    for place in places:
        if place is None:
            dims.append(None)
        elif place is Ellipsis:
            dims.append(None)
            dim += ndim - taken
        else:
            dims.append(dim)
            dim += 1
    return dims


def _moved_bound(bound: Any, alive: np.ndarray) -> Any:
    if bound is None:
        return None
    if not isinstance(bound, int):
        raise Uneven("a slice whose ends are computed")
    return int(alive[:bound].sum()) if bound >= 0 else -int(alive[bound:].sum())


def _narrowed_(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    given: Any = node.args
    tensor, dim, start, length = given
    alive = left.along(values[tensor], dim)
    if alive.all():
        return False
    begin, end = int(alive[:start].sum()), int(alive[: start + length].sum())
    node.args = (tensor, dim, begin, end - begin)
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
