"""What is left of tensors once some labels are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from prune_realloc.tracing.ids import Ids
from prune_realloc.tracing.labels import Labels, compact


class Uneven(Exception):
    """What is left of a tensor is no box: a part of it is narrower than another."""


@dataclass(frozen=True, eq=False)
class Left:
    """Which labels are left."""

    alive: np.ndarray
    """By label."""
    orders: dict[str, np.ndarray] = field(default_factory=dict)
    """Parameter -> the order in which what is left of its columns was put, where that is another."""

    def along(self, x: Labels, dim: int) -> np.ndarray:
        """Which places along a dimension are left, shape (size,).

        Raises:
            Uneven: other ones in other rows.
        """
        dim %= x.ndim
        found = np.ones(x.shape[dim], dtype=bool)
        for plane in x.planes:
            alive = self._alive(plane)
            if alive.shape[dim] > 1:
                rows = np.moveaxis(alive, dim, 0).reshape(alive.shape[dim], -1)
                lives = rows.any(1)
                if (rows != rows[lives.argmax()])[lives].any():
                    raise Uneven("other channels in other rows")
                found &= lives
        return found

    def among(self, x: Labels, dim: int, part: slice) -> int:
        """How many places along a part of a dimension are left.

        Raises:
            Uneven: more in some rows than in others.
        """
        dim %= x.ndim
        found = [len(range(x.shape[dim])[part])]
        for plane in x.planes:
            alive = self._alive(plane)
            if alive.shape[dim] > 1:
                rows = np.moveaxis(alive, dim, 0).reshape(alive.shape[dim], -1)
                counts = np.unique(rows[part][:, rows.any(0)].sum(0))
                if len(counts) > 1:
                    raise Uneven("unlike parts of one tensor")
                found += counts.tolist()
        return min(found)

    def shape(self, x: Labels) -> tuple[int, ...]:
        """Its size along each dimension.

        Raises:
            Uneven: no size says it.
        """
        sizes = list(x.shape)
        for plane in x.planes:
            for dim, size in self._sizes(plane).items():
                sizes[dim] = min(sizes[dim], size)
        return tuple(sizes)

    def is_box(self, x: Labels) -> bool:
        """Is as much left in every row?"""
        try:
            self.shape(x)
        except Uneven:
            return False
        return True

    def _alive(self, plane: Tensor) -> np.ndarray:
        return self.alive[compact(plane).long().numpy()]

    def dims(self, plane: Tensor) -> list[int]:
        """Along which something goes; those along which neighbours lie further apart come first.

        Raises:
            Uneven: all of it goes.
        """
        alive, small = self._alive(plane), compact(plane)
        if alive.all():
            return []
        dims = [dim for dim in range(alive.ndim) if (alive != np.take(alive, [0], axis=dim)).any()]
        if not dims:
            raise Uneven("nothing is left")
        return sorted(dims, key=lambda dim: -_step(small, dim))

    def taken(self, plane: Tensor) -> np.ndarray:
        """The labels of a plane that are left, in each row in their order.

        Raises:
            Uneven: they are no box.
        """
        dims, sizes = self.dims(plane), self._sizes(plane)
        last = range(-len(dims), 0)
        rows = np.moveaxis(plane.long().numpy(), dims, last)
        kept = rows[self.alive[rows]].reshape(*rows.shape[: plane.ndim - len(dims)], *(sizes[dim] for dim in dims))
        return np.moveaxis(kept, last, dims)

    def _sizes(self, plane: Tensor) -> dict[int, int]:
        """Dimension -> what is left along it, where something goes.

        Rows may lose other channels if they lose as many, and if the channels of a row lie side by side.
        """
        dims, alive = self.dims(plane), self._alive(plane)
        rest = np.moveaxis(alive, dims, range(len(dims))).reshape(*(alive.shape[dim] for dim in dims), -1)[..., 0]
        sizes = {}
        for dim in reversed(dims):
            counts = rest.sum(-1)
            if len(np.unique(counts[counts > 0])) != 1:
                raise Uneven("unlike parts of one tensor")
            sizes[dim] = int(counts.max())
            rest = counts > 0
        return sizes

    def loses(self, x: Labels) -> bool:
        return any(not self._alive(plane).all() for plane in x.planes)


def _step(plane: Tensor, dim: int) -> float:
    """How far apart neighbours along a dimension lie."""
    return float(plane.diff(dim=dim).abs().double().median())


def left_of(ids: Ids, gone: Mapping[str, Mapping[int, np.ndarray]]) -> Left:
    """What is left where positions of parameters go.

    Args:
        gone: parameter -> dimension -> positions.
    """
    alive = np.ones(ids.count, dtype=bool)
    for run in ids.all_runs():
        for dim, places in gone.get(run.name, {}).items():
            if run.dim == dim:
                alive[run.start + places] = False
            elif run.dim is None:
                whole = np.ones(run.shape, dtype=bool)
                np.moveaxis(whole, dim, 0)[places] = False
                alive[run.start : run.start + run.size] &= whole.ravel()
    for label, members in ids.members.items():
        alive[label] = alive[members].any()
    return Left(alive)
