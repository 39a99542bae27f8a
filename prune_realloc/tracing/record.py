"""What is noted while a network runs on labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.tracing.ids import Ids
from prune_realloc.tracing.labels import Labels, collapsed, compact, varies

LayerKind = Literal["linear", "conv"]
_BITS = 31
"""Enough for an id: two of them are told apart as one number."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or convolution, where it was computed."""

    number: int
    kind: LayerKind
    module: str
    """The module whose forward pass computed it; the layer itself where that is one of torch's."""
    weight: str
    bias: str | None
    reads: np.ndarray
    """Label of each channel that it reads, shape (in,)."""
    positions: int
    """Of one image: how often the weight is applied."""
    groups: int = 1
    source: int | None = None
    """The layer that its input comes from alone, if any."""
    pure: bool = False
    """Nothing but moves, scales and products with attention lies between that layer and this one."""

    @property
    def place(self) -> str:
        """Where it can be watched: the module, or a weight that is read in no call of its own module."""
        return self.module if self.own else self.weight

    @property
    def dim(self) -> int:
        """The dimension that runs over the channels of its input and output."""
        return -1 if self.kind == "linear" else 1

    @property
    def own(self) -> bool:
        """Is it a module of torch's, whose input and output can be watched?"""
        return self.weight == f"{self.module}.weight"


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalisation."""

    kind: Literal["layer", "batch"]
    module: str
    weight: str | None
    labels: np.ndarray
    source: int | None
    """The layer whose output it acts on, if it is the output of one."""
    pure: bool
    """Nothing but moves lies between."""


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations, such as that of queries and keys."""

    module: str
    macs: int
    """Multiply-adds for one image, without those of `bare`."""
    factors: tuple[np.ndarray, ...]
    """Labels over which it runs, a number of multiply-adds for each combination."""
    bare: tuple[tuple[int, tuple[np.ndarray, ...]], ...]
    """Multiply-adds at places of a side that are of no channel, and the labels over which these run."""
    contracted: np.ndarray
    """Labels of the dimension that is summed over; empty where it has none."""
    sources: tuple[tuple[int | None, bool], ...]
    """Of both sides: the layer that wrote it, and whether nothing but moves and scales lies between."""


@dataclass(frozen=True, eq=False)
class Sum:
    """Two activations added to each other."""

    module: str
    sides: tuple[Labels, Labels]
    out: Labels


@dataclass
class Record:
    """All of it, in the order in which it was computed."""

    ids: Ids
    layers: list[Layer] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    ties: list[np.ndarray] = field(default_factory=list)
    """Pairs of labels that stay or go together, shape (n, 2)."""
    frozen: list[tuple[np.ndarray, str]] = field(default_factory=list)
    """Labels that must stay, and why."""
    held: list[tuple[np.ndarray, str]] = field(default_factory=list)
    """Labels that must stay unless all that lies in their head goes, and why."""
    lengths: list[np.ndarray] = field(default_factory=list)
    """Labels of vectors that are divided by their lengths."""
    normalised: list[np.ndarray] = field(default_factory=list)
    """Labels over which statistics were taken: without some of them the others change."""
    carried: list[np.ndarray] = field(default_factory=list)
    """Labels of what a product of activations passes on: values."""
    scales: list[tuple[str, int]] = field(default_factory=list)
    """Parameter with a factor for each channel -> the layer whose output it acts on."""
    sums: list[Sum] = field(default_factory=list)
    computed: int = 0
    """Multiply-adds of layers whose weights are computed."""
    origins: int = 0
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=dict)
    """Module -> what it was called with, and what it returned, the last time."""
    sized: set[str] = field(default_factory=set)
    """Modules whose forward pass itself names sizes or splits of labelled tensors."""
    stack: list[str] = field(default_factory=lambda: [""])

    def of(self, model: nn.Module) -> Record:
        """The same of a copy of the network."""
        return replace(self, ids=replace(self.ids, names=Ids.of(model).names))

    @property
    def module(self) -> str:
        """The module that is being computed."""
        return self.stack[-1]

    def mark(self, x: Labels) -> None:
        """Give it an origin if it has none."""
        if x.origin is None:
            self.origins += 1
            x.origin = self.origins

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Elements that meet stay or go together; 0 is nobody's."""
        a, b = _matched(a, b)
        differ = (a != b) & (a != 0) & (b != 0)
        if differ.any():
            first, second = (x[differ].numpy().astype(np.int64) for x in (a, b))
            codes = np.unique(first << _BITS | second)
            self.ties.append(np.stack([codes >> _BITS, codes & ((1 << _BITS) - 1)], axis=1))

    def grouped(self, plane: Tensor, dims: list[int]) -> Tensor:
        """For each place along `dims` one label, which stands for all that lie there."""
        others = [dim for dim in range(plane.ndim) if dim not in dims]
        if not any(varies(plane, dim) for dim in others):
            return collapsed(plane, others)
        rows = compact(plane).permute([*dims, *others])
        sizes = rows.shape[: len(dims)]
        rows = rows.reshape(int(np.prod(sizes)), -1)
        ids = torch.tensor([self.ids.group(row) for row in rows], dtype=torch.float64)
        shape = [sizes[dims.index(dim)] if dim in dims else 1 for dim in range(plane.ndim)]
        return ids.reshape(shape)

    def freeze(self, plane: Tensor, reason: str, *, heads_may_go: bool = False) -> None:
        found = np.unique(compact(plane).numpy()).astype(np.int64)
        if (found > 0).any():
            kept = self.held if heads_may_go else self.frozen
            kept.append((found[found > 0], f"{self.module or 'the network'}: {reason}"))


def _matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape, without places along which neither is stored."""
    if a.ndim == b.ndim:
        for dim in range(a.ndim):
            if all(x.shape[dim] == 1 or x.stride(dim) == 0 for x in (a, b)):
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
    return a.expand(shape), b.expand(shape)
