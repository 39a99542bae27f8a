"""Runs of channels that a forward pass takes by their places, set to where they lie among those that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from prune_realloc.tracing.labels import Labels
from prune_realloc.tracing.left import Left, Uneven


def sliced_(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    """`x[.., a:b]`."""
    tensor, index = node.args
    x = values.get(tensor)  # type: ignore[arg-type]
    if not isinstance(x, Labels):
        return False
    places = list(index) if isinstance(index, tuple) else [index]
    dims = _indexed_dims(places, x.ndim)
    changed = False
    for at, (place, dim) in enumerate(zip(places, dims, strict=True)):
        if dim is None or left.shape(x)[dim] == x.shape[dim]:
            continue
        if isinstance(place, slice) and place.step is None:
            ends = (values.get(end) if isinstance(end, fx.Node) else end for end in (place.start, place.stop))
            bounds = [_moved_bound(end, x, dim, left) for end in ends]
            places[at], changed = slice(*bounds), True
        elif isinstance(place, int):
            alive = left.along(x, dim)
            if not alive[place]:
                raise Uneven("a channel that is taken by its place went")
            places[at], changed = int(alive[: place % len(alive)].sum()), True
        else:
            raise Uneven("channels that are taken by a step or by their numbers")
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


def _moved_bound(bound: Any, x: Labels, dim: int, left: Left) -> int | None:
    if bound is None:
        return None
    if not isinstance(bound, int):
        raise Uneven("a slice whose ends depend on the images")
    if bound >= 0:
        return left.among(x, dim, slice(bound))
    if not left.among(x, dim, slice(bound, None)):
        raise Uneven("a slice of which nothing is left")
    return -left.among(x, dim, slice(bound, None))


def narrowed_(node: fx.Node, values: Mapping[fx.Node, Any], left: Left) -> bool:
    given: Any = node.args
    tensor, dim, start, length = given
    x = values[tensor]
    if left.shape(x)[dim] == x.shape[dim]:
        return False
    alive = left.along(x, dim)
    begin, end = int(alive[:start].sum()), int(alive[: start + length].sum())
    node.args = (tensor, dim, begin, end - begin)
    return True
