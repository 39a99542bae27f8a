"""Where the tokens of a stream are while a unit computes in windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prune_realloc.tracing.labels import Labels, collapsed, labels, varies
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.run import on_labels


@dataclass(frozen=True, eq=False)
class Order:
    """The tokens that a layer sees, of one image."""

    places: np.ndarray
    """The token at each of its places, counted from 1; 0 where a window is filled up."""
    shape: tuple[int, ...]
    """Of the stream's tokens."""

    @property
    def of_tokens(self) -> torch.Tensor:
        """The place of each token."""
        found = np.zeros(int(np.prod(self.shape)), np.int64)
        found[self.places[self.places > 0] - 1] = np.flatnonzero(self.places > 0)
        return torch.as_tensor(found)


@torch.no_grad()
def token_order(unit: nn.Module, name: str, record: Record, writer: str) -> Order | None:
    """The order in which the layer `writer` of a unit sees the tokens; None where it is that of the stream.

    The unit is run on labels of tokens instead of channels.
    """
    args, kwargs, _ = record.calls[name]
    [x] = [value for value in (*args, *kwargs.values()) if isinstance(value, Labels)]
    dim = 1 if x.ndim == 4 and varies(x.planes[0], 1) else x.ndim - 1
    shape = [size for at, size in enumerate(x.shape) if at not in (0, dim)]
    tokens = (1 + torch.arange(int(np.prod(shape)), dtype=torch.float64)).reshape(1, *shape).unsqueeze(dim)
    marked = labels(x.shape, [tokens])
    seen: list[np.ndarray] = []

    def look(module: nn.Module, inputs: tuple[Labels, ...]) -> None:
        seen.append(_tokens(inputs[0], 1 if isinstance(module, nn.Conv2d) else -1))

    handle = unit.get_submodule(writer.removeprefix(f"{name}.")).register_forward_pre_hook(look)
    try:
        with on_labels(Record(record.ids)):
            unit(
                *(marked if value is x else value for value in args),
                **{k: marked if v is x else v for k, v in kwargs.items()},
            )
    finally:
        handle.remove()
    if not seen or ((seen[0] == np.arange(1, len(seen[0]) + 1)).all() and len(seen[0]) == int(np.prod(shape))):
        return None
    return Order(seen[0], tuple(shape))


def _tokens(x: Labels, dim: int) -> np.ndarray:
    plane = next((p for p in x.planes if not varies(p, dim)), x.planes[0])
    return collapsed(plane, [dim % x.ndim]).numpy().astype(np.int64).ravel()
