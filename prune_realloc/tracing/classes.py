"""Labels that stay or go together -> classes, and where each lies in the parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prune_realloc.tracing.ids import Run
from prune_realloc.tracing.record import Record

Position = tuple[str, int, int]
"""Parameter, dimension, place along it."""


@dataclass(frozen=True, eq=False)
class Classes:
    """Which labels are of one class, and which classes must stay."""

    record: Record
    of: np.ndarray
    """Label -> its class; the label 0 has one of its own."""
    dims: Mapping[str, int | None]
    """Parameter that is used element by element -> the dimension that runs over channels; None: no dimension does."""

    @cached_property
    def frozen(self) -> dict[int, str]:
        """Class that must stay, or may go with its head alone -> why."""
        return self.whole | self._reasons(self.record.held)

    @cached_property
    def whole(self) -> dict[int, str]:
        """Class that must stay -> why."""
        return self._reasons(self.record.frozen)

    def _reasons(self, kept: Iterable[tuple[np.ndarray, str]]) -> dict[int, str]:
        found: dict[int, str] = {}
        for labels, reason in kept:
            for number in np.unique(self.of[labels]):
                found.setdefault(int(number), reason)
        return found

    @cached_property
    def positions(self) -> dict[int, list[Position]]:
        """Class -> where it lies in parameters."""
        found: dict[int, dict[Position, None]] = defaultdict(dict)
        for run in self.record.ids.all_runs():
            dim, numbers = self.along(run)
            for place, number in enumerate(numbers):
                found[int(number)][run.name, dim, place] = None
        return {number: list(places) for number, places in found.items()}

    @cached_property
    def groups(self) -> dict[int, list[np.ndarray]]:
        """Class of the labels that stand for a group -> the labels of its members."""
        found: dict[int, list[np.ndarray]] = defaultdict(list)
        for label, members in self.record.ids.members.items():
            found[int(self.of[label])].append(members)
        return dict(found)

    def along(self, run: Run) -> tuple[int, np.ndarray]:
        """The dimension that a run of ids is about, and the class at each place along it; none where it has none."""
        numbers = self.of[run.start : run.start + run.size]
        if run.dim is not None:
            return run.dim, numbers
        dim = self.dims[run.name]
        if dim is None:
            return 0, np.zeros(0, np.int64)
        return dim, np.moveaxis(numbers.reshape(run.shape), dim, 0).reshape(run.shape[dim], -1)[:, 0]


def classes(record: Record) -> Classes:
    """Ties followed to their ends."""
    of = _components(record)
    for label, members in record.ids.members.items():
        if len(members) and (of[members] == of[members[0]]).all():  # no head: one channel of several layers
            record.ties.append(np.array([[label, members[0]]]))
    of = _components(record)
    dims: dict[str, int | None] = {}
    for run in list(record.ids.all_runs()):
        if run.dim is None:
            dims[run.name] = _channel_dim(record, run, of)
    return Classes(record, _components(record), dims)


def _components(record: Record) -> np.ndarray:
    count = record.ids.count
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *record.ties])
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _channel_dim(record: Record, run: Run, of: np.ndarray) -> int | None:
    """The dimension of a parameter along which its elements' classes change; none: they must all stay."""
    numbers = of[run.start : run.start + run.size].reshape(run.shape or (1,))
    for dim in sorted(range(numbers.ndim), key=lambda d: -numbers.shape[d]):
        rows = np.moveaxis(numbers, dim, 0).reshape(numbers.shape[dim], -1)
        if (rows == rows[:, :1]).all() and (rows.shape[1] == 1 or numbers.shape[dim] > 1):
            same = record.ids.runs.get((run.name, dim))
            if same is not None:  # it is used both as a whole and along this dimension
                record.ties.append(np.stack([_row_labels(run, dim), same.start + np.arange(same.size)], axis=1))
            return dim
    labels = run.start + np.arange(run.size)
    record.frozen.append((labels, f"{run.name}: its channels do not lie along one dimension"))
    return None


def _row_labels(run: Run, dim: int) -> np.ndarray:
    labels = (run.start + np.arange(run.size)).reshape(run.shape)
    return np.moveaxis(labels, dim, 0).reshape(run.shape[dim], -1)[:, 0]


def unique(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The labels in all of them, without 0."""
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *arrays])).astype(np.int64)
    return found[found > 0]
