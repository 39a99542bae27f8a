"""Heads laid between each other: the first channel of every head, then the second one of every head.

Once some are gone, the channels of a head move up among its own, the columns of the layer that reads them among those
of all heads. Where heads lose other channels than each other, the columns are put in the order of the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from prune_realloc.tracing.labels import Labels, varying
from prune_realloc.tracing.left import Left, Uneven
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.sizes import name_of

_MERGING = ("reshape", "view", "flatten")


class Turned(NamedTuple):
    """Channels that come in another order than the one in which positions are left."""

    step: fx.Node
    """That lays their dimensions together."""
    before: np.ndarray
    """All labels of the source, in their order."""
    now: np.ndarray
    """Those that are left, in the order in which they come."""


def interleaved(values: Mapping[fx.Node, Any], left: Left) -> Iterator[Turned]:
    """Where dimensions are laid together and what is left comes in another order than before.

    Args:
        values: what every step of a forward pass gives in the source.

    Raises:
        Uneven: it does so in several dimensions.
    """
    for node, after in values.items():
        source = node.args[0] if node.args else node.kwargs.get("input")
        before = values.get(source) if isinstance(source, fx.Node) else None
        if name_of(node) not in _MERGING or not isinstance(after, Labels) or not isinstance(before, Labels):
            continue
        if not left.is_box(before) or not left.is_box(after):
            continue  # parts of unlike size are taken out one by one, in their order
        for plane, laid in zip(before.planes, after.planes, strict=True):
            if len(left.dims(plane)) > 1:
                stay = left.taken(laid)
                come = left.taken(plane).reshape(stay.shape)
                if (come != stay).any():
                    yield Turned(node, _line(laid), _line(torch.from_numpy(come)))


def _line(plane: Tensor) -> np.ndarray:
    """The labels along the one dimension along which they vary."""
    dims = varying(plane)
    if len(dims) != 1:
        raise Uneven("channels of several heads in turn, in several dimensions")
    return plane.movedim(dims[0], 0).flatten(1)[:, 0].long().numpy()


def reorder_columns_(model: nn.Module, name: str, record: Record, left: Left, turned: Turned) -> None:
    """Put the columns of the layers that read these channels in their order.

    Args:
        name: of the module in whose forward pass they are turned.
        left: gets the order.

    Raises:
        Uneven: something else reads them, which may have a number for each channel too.
    """
    stay = turned.before[left.alive[turned.before]]
    places = np.argsort(stay)[np.searchsorted(np.sort(stay), turned.now)]
    for reader in _readers(model.get_submodule(name), turned.step):
        full = f"{name}.{reader}" if name else reader
        layers = [layer for layer in record.layers if layer.module == full and layer.own and layer.groups == 1]
        if not layers or any(not np.array_equal(layer.reads, turned.before) for layer in layers):
            raise Uneven(f"channels of several heads in turn, read by {full}")
        weight = layers[0].weight
        columns = model.get_parameter(weight)
        columns.data = columns.data.index_select(1, torch.as_tensor(places, device=columns.device))
        left.orders[weight] = left.orders.get(weight, np.arange(len(places)))[places]


def _readers(module: nn.Module, step: fx.Node) -> set[str]:
    """The modules with parameters that read what a step gives, behind those without any, such as dropout."""
    found = set()
    for user in step.users:
        if user.op != "call_module":
            raise Uneven("channels of several heads in turn, read by no layer")
        name = str(user.target)
        bare = next(module.get_submodule(name).parameters(), None) is None
        found |= _readers(module, user) if bare else {name}
    return found
