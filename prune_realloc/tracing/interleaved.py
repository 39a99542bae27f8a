"""Heads laid between each other: the first channel of every head, then the second one of every head.

Once some are gone, the channels of a head move up among its own, the columns of the layer that reads them among those
of all heads. Where heads lose other channels than each other, the columns are put in the order of the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from prune_realloc.tracing.labels import Labels, varying
from prune_realloc.tracing.left import Left, Uneven
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.sizes import name_of

_MERGING = ("reshape", "view", "flatten")

Order = tuple[np.ndarray, np.ndarray]
"""The labels along a dimension in the source, and those that are left in the order in which they come."""


def interleaved(values: Mapping[fx.Node, Any], left: Left) -> Iterator[Order]:
    """Of dimensions that are laid together: where what is left comes in another order than before.

    Args:
        values: what every step of a forward pass gives in the source.

    Raises:
        Uneven: it does so in several dimensions.
    """
    for node, after in values.items():
        before = values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if name_of(node) not in _MERGING or not isinstance(after, Labels) or not isinstance(before, Labels):
            continue
        if not left.is_box(before) or not left.is_box(after):
            continue  # parts of unlike size are taken out one by one, in their order
        for plane, laid in zip(before.planes, after.planes, strict=True):
            if len(left.dims(plane)) > 1:
                stay = left.taken(laid)
                come = left.taken(plane).reshape(stay.shape)
                if (come != stay).any():
                    yield _line(laid), _line(torch.from_numpy(come))


def _line(plane: Tensor) -> np.ndarray:
    """The labels along the one dimension along which they vary."""
    dims = varying(plane)
    if len(dims) != 1:
        raise Uneven("channels of several heads in turn, in several dimensions")
    return plane.movedim(dims[0], 0).flatten(1)[:, 0].long().numpy()


def reorder_columns_(model: nn.Module, record: Record, left: Left, order: Order) -> None:
    """Put the columns of the layers that read these channels in their order.

    Raises:
        Uneven: no layer reads them as they are.
    """
    before, come = order
    weights = {layer.weight for layer in record.layers if layer.groups == 1 and np.array_equal(layer.reads, before)}
    if not weights:
        raise Uneven("channels of several heads in turn, which no layer reads")
    stay = before[left.alive[before]]
    places = np.argsort(stay)[np.searchsorted(np.sort(stay), come)]
    for weight in weights:
        columns = model.get_parameter(weight)
        columns.data = columns.data.index_select(1, torch.as_tensor(places, device=columns.device))
