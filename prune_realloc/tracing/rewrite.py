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

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from prune_realloc.core.errors import InputError
from prune_realloc.runtime.attention import scaled_dot_product_attention
from prune_realloc.tracing.guided import Written, written
from prune_realloc.tracing.interleaved import interleaved, reorder_columns_
from prune_realloc.tracing.labels import Labels, labels
from prune_realloc.tracing.left import Left, Uneven
from prune_realloc.tracing.pieces import piece_
from prune_realloc.tracing.ranges import narrowed_, sliced_
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.run import shell
from prune_realloc.tracing.sizes import SHAPING, name_of, reshaped_, settle_shapes_


def rewrite_(model: nn.Module, source: nn.Module, record: Record, left: Left) -> list[str]:
    """Let `model`, whose parameters were cut from those of `source`, run: columns of a layer may change places.

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
            for turned in interleaved(found.values, left):
                reorder_columns_(model, name, record, left, turned)
            if _resized_(found.graph, found.values, left):
                _set_forward_(model.get_submodule(name), found)
        except Uneven as error:
            raise InputError(
                f"{name} ({type(module).__name__}): {error}; keep its channels whole, or the same ones in each part"
            ) from error
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
        name, value = name_of(node), values.get(node)
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
    settle_shapes_(graph, values, left)
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


_MOVES = (
    *("reshape", "view", "permute", "transpose", "flatten", "unflatten", "unbind", "getitem", "chunk", "split"),
    *("squeeze", "unsqueeze", "contiguous", "movedim"),
)


def _is_move(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and name_of(node) in _MOVES


def _set_sizes_(graph: fx.Graph, node: fx.Node, name: str, values: dict[fx.Node, Any], left: Left) -> bool:
    value = values.get(node)
    if node.op not in ("call_method", "call_function"):
        return False
    if name in SHAPING and isinstance(value, Labels):
        return reshaped_(graph, node, name, value, values, left)
    if name in ("chunk", "split") and isinstance(value, tuple | list) and isinstance(value[0], Labels):
        return _split_(graph, node, values, left)
    if name == "getitem" and isinstance(value, Labels):
        return sliced_(node, values, left)
    if name == "narrow" and isinstance(value, Labels):
        return narrowed_(node, values, left)
    if name == "scaled_dot_product_attention":
        return _scaled_(node, values, left)
    return False


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
    """The logits keep the scale of the source, and narrower queries or values still take a fused kernel."""
    given = dict(zip(("query", "key", "value"), node.args, strict=False)) | node.kwargs
    query, value = (values.get(given[name]) for name in ("query", "value"))  # type: ignore[arg-type]
    if not isinstance(query, Labels) or not isinstance(value, Labels):
        return False
    if all(left.shape(x)[-1] == x.shape[-1] for x in (query, value)):
        return False
    if not node.kwargs.get("enable_gqa"):
        node.target = scaled_dot_product_attention
        node.kwargs = {name: x for name, x in node.kwargs.items() if name != "enable_gqa"}
    if node.kwargs.get("scale") is None:
        node.kwargs = {**node.kwargs, "scale": query.shape[-1] ** -0.5}
    return True


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
