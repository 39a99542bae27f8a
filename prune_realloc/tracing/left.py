"""What is left of tensors once some labels are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prune_realloc.tracing.ids import Ids
from prune_realloc.tracing.labels import Labels, compact


class Uneven(Exception):
    """What is left of a tensor is no box: a part of it is narrower than another."""


@dataclass(frozen=True, eq=False)
class Left:
    """Which labels are left."""

    alive: np.ndarray
    """By label."""

    def along(self, x: Labels, dim: int) -> np.ndarray:
        """Which places along a dimension are left, shape (size,)."""
        found = np.ones(x.shape[dim], dtype=bool)
        dim %= x.ndim
        for plane in x.planes:
            small = compact(plane)
            if small.shape[dim] > 1 or x.shape[dim] == 1:
                alive = self.alive[small.long().numpy()]
                found &= np.moveaxis(alive, dim, 0).reshape(small.shape[dim], -1).any(1)
        return found

    def shape(self, x: Labels) -> tuple[int, ...]:
        """Its size along each dimension.

        Raises:
            Uneven: no size says it.
        """
        if not self.is_box(x):
            raise Uneven("unlike parts of one tensor")
        return tuple(int(self.along(x, dim).sum()) for dim in range(x.ndim))

    def is_box(self, x: Labels) -> bool:
        """Is the same left in every row?"""
        for plane in x.planes:
            alive = self.alive[compact(plane).long().numpy()]
            if alive.all():
                continue
            box = np.ones((1,) * alive.ndim, dtype=bool)
            for dim in range(alive.ndim):
                some = alive.any(axis=tuple(d for d in range(alive.ndim) if d != dim), keepdims=True)
                box = box & some
            if (alive != box).any():
                return False
        return True

    def loses(self, x: Labels) -> bool:
        return any(not self.alive[compact(plane).long().numpy()].all() for plane in x.planes)


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
