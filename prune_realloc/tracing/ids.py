"""Ids of the positions of parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """A run of ids: of the positions along one dimension of a tensor, or of all of its elements."""

    name: str
    dim: int | None
    """None: of the elements, in the order in which they lie."""
    start: int
    shape: tuple[int, ...]
    """Of the whole tensor."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) if self.dim is None else self.shape[self.dim]

    def tensor(self) -> Tensor:
        return torch.arange(self.start, self.start + self.size, dtype=torch.float64)


@dataclass
class Ids:
    """Gives ids out as they are asked for; 0 is none."""

    names: dict[int, str]
    """`id` of a parameter or buffer -> its name."""
    runs: dict[tuple[str, int | None], Run] = field(default_factory=dict)
    groups: dict[bytes, int] = field(default_factory=dict)
    """Ids of a group of labels, such as those of a head, that stand for whatever belongs to all of them."""
    members: dict[int, np.ndarray] = field(default_factory=dict)
    """Id of a group -> the labels in it."""
    count: int = 1

    @classmethod
    def of(cls, model: nn.Module) -> Ids:
        """Of all parameters, and of the buffers that can lose channels: one that no file keeps must be one number."""
        kept = model.state_dict(keep_vars=True)
        buffers = [
            (name, x)
            for name, x in model.named_buffers()
            if name in kept or not x.numel() or (x == x.flatten()[0]).all()
        ]
        return cls({id(tensor): name for name, tensor in (*model.named_parameters(), *buffers)})

    def along(self, tensor: Tensor, dim: int) -> Tensor:
        """Ids of the positions along a dimension, shape (size,)."""
        return self._run(tensor, dim).tensor()

    def elements(self, tensor: Tensor) -> Tensor:
        """Ids of all elements, in the shape of `tensor`."""
        return self._run(tensor, None).tensor().reshape(tensor.shape)

    def group(self, labels: Tensor) -> int:
        """The id that stands for what belongs to all of `labels`, shape (n,)."""
        found = np.unique(labels.numpy())
        key = found.tobytes()
        if key not in self.groups:
            self.groups[key] = self._take(1)
            self.members[self.groups[key]] = found[found > 0].astype(np.int64)
        return self.groups[key]

    def name_of(self, label: int) -> str:
        """The parameter that a label is of."""
        return next(run.name for run in self.runs.values() if run.start <= label < run.start + run.size)

    def all_runs(self) -> Iterator[Run]:
        yield from self.runs.values()

    def _run(self, tensor: Tensor, dim: int | None) -> Run:
        key = (self.names[id(tensor)], dim)
        if key not in self.runs:
            run = Run(*key, start=0, shape=tuple(tensor.shape))
            self.runs[key] = Run(*key, start=self._take(run.size), shape=run.shape)
        return self.runs[key]

    def _take(self, size: int) -> int:
        start = self.count
        self.count += size
        return start
