"""Parts of a layer's output that are no longer of one size: each is taken out before the output is reshaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from prune_realloc.tracing.labels import Labels, labels, varies
from prune_realloc.tracing.left import Left, Uneven


def piece_(graph: fx.Graph, node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> fx.Node:
    """Compute `node`, a part of an uneven tensor, from the last even one before it; returns what is used instead of it.

    Raises:
        Uneven: its channels do not lie in one run there, or it mixes dimensions in another way.
    """
    base, chain = _base(node, values, left)
    whole, part = values[base], values[node]
    places = _places(base, chain, values, node)
    with graph.inserting_before(node):
        base, whole = _windowed(graph, base, whole, places)
    coordinates = np.unravel_index(places, tuple(whole.shape))
    channel = _channel_dim(whole, left)
    moves = [_moves_along(coordinates, dim) for dim in range(part.ndim)]
    inside = [dim for dim in range(part.ndim) if channel in moves[dim]]
    if any(len(moves[dim]) > 1 for dim in inside):
        raise Uneven("channels and places in one dimension")
    rows = _corner(coordinates[channel], inside)  # in the order of the part's dimensions
    order = sorted(range(len(inside)), key=lambda at: -_step(rows, at))
    alive, sizes = left.along(whole, channel), left.shape(part)
    ordered = rows.transpose(order)
    now = (np.cumsum(alive) - 1)[ordered[alive[ordered]]].reshape([sizes[inside[at]] for at in order])
    start = int(now.flat[0])
    if (now.ravel() != start + np.arange(now.size)).any():
        raise Uneven("channels that do not lie in one run")
    with graph.inserting_before(node):
        made = graph.call_method("narrow", (base, channel, start, now.size))
        made = graph.call_method("unflatten", (made, channel, now.shape)) if now.ndim != 1 else made
        made, places_of = _flattened(graph, made, whole, channel, now.ndim, moves)
        made = _ordered(graph, made, _order(part, moves, inside, order, channel, places_of), places_of)
    node.replace_all_uses_with(made)
    return made


def _base(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> tuple[fx.Node, list[fx.Node]]:
    """The last even tensor before `node`, and what lies between."""
    chain, at = [node], node
    while True:
        above = [x for x in at.all_input_nodes if isinstance(values.get(x), Labels | tuple | list)]
        above = [x for x in above if not isinstance(values[x], tuple | list) or isinstance(values[x][0], Labels)]
        if len(above) != 1:
            raise Uneven("unlike parts that are put together")
        at = above[0]
        if isinstance(values[at], Labels) and left.is_box(values[at]):
            return at, chain[::-1]
        chain.append(at)


def _places(base: fx.Node, chain: list[fx.Node], values: Mapping[fx.Node, Any], node: fx.Node) -> np.ndarray:
    """For each element of `node` its place in `base`."""
    shape = tuple(values[base].shape)
    found: dict[fx.Node, Any] = {base: torch.arange(int(np.prod(shape))).reshape(shape)}

    def load(x: fx.Node) -> Any:
        return found[x] if x in found else values[x]

    for each in chain:
        args, kwargs = fx.map_arg(each.args, load), fx.map_arg(each.kwargs, load)
        if each.op == "call_method":
            target, *rest = args
            found[each] = getattr(target, str(each.target))(*rest, **kwargs)
        elif callable(each.target):
            found[each] = each.target(*args, **kwargs)
        else:
            raise Uneven(f"{each.target} of unlike parts")
    places: Tensor = found[node]
    return places.contiguous().numpy()  # of one laid out otherwise, numpy's unravel_index mixes up the rows


def _windowed(graph: fx.Graph, base: fx.Node, whole: Labels, places: np.ndarray) -> tuple[fx.Node, Labels]:
    """The base with a dimension for each into which the part has split one of places, such as that of windows."""
    for dim in reversed(range(whole.ndim)):
        coordinates = np.unravel_index(places, tuple(whole.shape))
        moves = [_moves_along(coordinates, at) for at in range(places.ndim)]
        split = [at for at, dims in enumerate(moves) if dims == [dim]]
        if len(split) > 1 and not any(varies(plane, dim) for plane in whole.planes):
            rows = _corner(coordinates[dim], split)
            order = sorted(range(len(split)), key=lambda at: -_step(rows, at))
            if (rows.transpose(order).ravel() != np.arange(whole.shape[dim])).any():
                raise Uneven("places in another order")
            sizes = [places.shape[split[at]] for at in order]
            base = graph.call_method("unflatten", (base, dim, (-1, *sizes[1:])))
            shape = (*whole.shape[:dim], *sizes, *whole.shape[dim + 1 :])
            whole = labels(shape, [plane.unflatten(dim, sizes) for plane in whole.planes])
    return base, whole


def _channel_dim(whole: Labels, left: Left) -> int:
    dims = [dim for dim in range(whole.ndim) if not left.along(whole, dim).all()]
    if len(dims) != 1:
        raise Uneven("channels in several dimensions")
    return dims[0]


def _moves_along(coordinates: tuple[np.ndarray, ...], dim: int) -> list[int]:
    """Dimensions of the base whose place changes along a dimension of the part."""
    return [at for at, place in enumerate(coordinates) if (place != place.take([0], axis=dim)).any()]


def _corner(places: np.ndarray, dims: list[int]) -> np.ndarray:
    """Only along `dims`, at the first place of all others."""
    return places[tuple(slice(None) if dim in dims else 0 for dim in range(places.ndim))]


def _step(rows: np.ndarray, at: int) -> int:
    if rows.shape[at] == 1:
        return 0
    lines = np.moveaxis(rows, at, 0).reshape(rows.shape[at], -1)
    return int(abs(lines[1, 0] - lines[0, 0]))


def _flattened(
    graph: fx.Graph, made: fx.Node, whole: Labels, channel: int, parts: int, moves: list[list[int]]
) -> tuple[fx.Node, dict[int, int]]:
    """The base's other dimensions, those that the part has in one laid together -> where each lies now."""
    merged = next((dims for dims in moves if len(dims) > 1), [])
    places: dict[int, int] = {}
    at = 0
    for dim in range(whole.ndim):
        if dim == channel:
            at += parts
        elif merged and dim in merged[1:]:
            places[dim] = places[merged[0]]
        else:
            places[dim] = at
            at += 1
    if merged:
        if merged != list(range(merged[0], merged[-1] + 1)) or sum(len(dims) > 1 for dims in moves) > 1:
            raise Uneven("places in another order")
        made = graph.call_method("flatten", (made, places[merged[0]], places[merged[0]] + len(merged) - 1))
    return made, places


def _order(
    part: Labels, moves: list[list[int]], inside: list[int], order: list[int], channel: int, places: Mapping[int, int]
) -> list[int | None]:
    """For each dimension of the part, where it lies now; None for one of size 1 that lies nowhere."""
    found: dict[int, int | None] = {inside[at]: channel + place for place, at in enumerate(order)}
    for dim, dims in enumerate(moves):
        if dim not in found and dims:
            found[dim] = places[dims[0]]
    free = [place for place in sorted(set(places.values())) if place not in found.values()]
    rest = [dim for dim in range(part.ndim) if dim not in found]
    pairs = dict(zip(rest, free, strict=True)) if len(free) == len(rest) else dict.fromkeys(rest)
    return [(found | pairs)[dim] for dim in range(part.ndim)]


def _ordered(graph: fx.Graph, made: fx.Node, order: Sequence[int | None], places: Mapping[int, int]) -> fx.Node:
    """In this order; dimensions of size 1 that are in none go, those that lie nowhere come."""
    lie = [at for at in order if at is not None]
    for place in sorted(set(places.values()) - set(lie), reverse=True):
        made = graph.call_method("squeeze", (made, place))
        lie = [at - (at > place) for at in lie]
    made = graph.call_method("permute", (made, *lie))
    for dim in (dim for dim, place in enumerate(order) if place is None):
        made = graph.call_method("unsqueeze", (made, dim))
    return made
