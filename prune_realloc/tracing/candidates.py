"""Classes -> groups of them that are one decision, with what kind of decision it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.utils._pytree import tree_leaves

from prune_realloc.core.structure import Axis
from prune_realloc.tracing.classes import Classes, Position, unique
from prune_realloc.tracing.labels import Labels, compact
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.sums import Added, added

Signature = tuple[tuple[tuple[str, int], int], ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Classes that lie in the same parameters, head by head."""

    axis: Axis
    unit: int | None
    """The unit of the chain whose inside they are; None for streams."""
    numbers: tuple[int, ...]
    """The classes, in the order of the site's units."""
    groups: int
    heads: tuple[int, ...] = ()
    """Class of the label that stands for each group, where the groups are heads."""

    @property
    def places(self) -> dict[int, int]:
        """Class -> its unit of the site."""
        return {number: unit for unit, number in enumerate(self.numbers)}


@dataclass(frozen=True, eq=False)
class Traced:
    """A network that was run on labels, with the units of its chain."""

    record: Record
    classes: Classes
    units: tuple[str, ...]

    def unit_of(self, name: str) -> int | None:
        """The unit that a module or parameter lies in."""
        for number, unit in enumerate(self.units):
            if name == unit or name.startswith(f"{unit}."):
                return number
        return None

    @cached_property
    def streams(self) -> dict[int, int]:
        """Class that passes from a unit to the next -> the first unit that gives it out; -1: the first one takes it."""
        found: dict[int, int] = {}
        for place, unit in enumerate(self.units):
            args, kwargs, out = self.record.calls[unit]
            for at, value in ((place - 1, (args, kwargs)), (place, out)):
                for number in self.row(value):
                    found.setdefault(number, at)
        return found

    @cached_property
    def added(self) -> list[tuple[Added, ...]]:
        """What each unit adds to what it takes."""
        return [added(self.record, unit) for unit in self.units]

    @cached_property
    def rows(self) -> list[frozenset[int]]:
        """The classes that each unit gives out, side by side."""
        return [frozenset(self.row(self.record.calls[unit][2])) for unit in self.units]

    def row(self, value: object) -> list[int]:
        """Classes of all labels in a tensor, or in several."""
        planes = [plane for x in tree_leaves(value) if isinstance(x, Labels) for plane in x.planes]
        labels = unique(compact(plane).numpy().ravel().astype(np.int64) for plane in planes)
        return list(dict.fromkeys(self.classes.of[labels].tolist()))

    @cached_property
    def contracted(self) -> set[int]:
        """Classes of what meets in products of activations: queries with keys."""
        return set(self.classes.of[unique(p.contracted for p in self.record.products)].tolist())

    @cached_property
    def carried(self) -> set[int]:
        """Classes of what such products pass on: values."""
        return set(self.classes.of[unique(self.record.carried)].tolist())

    @cached_property
    def spatial(self) -> set[int]:
        """Classes that go through a convolution of several places."""
        found: set[int] = set()
        for layer in self.record.layers:
            run = self.record.ids.runs[layer.weight, 0]
            if layer.kind == "conv" and np.prod(run.shape[2:]) > 1:
                found |= set(self.classes.along(run)[1].tolist()) | set(self.classes.of[layer.reads].tolist())
        return found

    @cached_property
    def heads_of(self) -> dict[int, set[int]]:
        """Class -> the groups that have a label of it."""
        found: dict[int, set[int]] = defaultdict(set)
        for group, members in self.classes.groups.items():
            for number in np.unique(self.classes.of[unique(members)]):
                found[int(number)].add(group)
        return found


def candidates(traced: Traced) -> list[Candidate]:
    """What could be made narrower, streams first; what must stay whole is left out."""
    alike: dict[Signature, list[int]] = defaultdict(list)
    for number, positions in traced.classes.positions.items():
        if number not in traced.classes.frozen:
            alike[_signature(positions)].append(number)
    streams, inner = [], []
    for signature, numbers in alike.items():
        if any(number in traced.streams for number in numbers):
            streams.append(numbers)
            continue
        units = {traced.unit_of(name) for (name, _), _ in signature}
        if len(units) == 1 and None not in units:
            inner.append(_inner(traced, units.pop(), numbers))
    every = [*_streams(traced, streams), *_evened(traced, [found for found in inner if found is not None])]
    return [each for each in every if _is_even(traced, each)]


def _signature(positions: Sequence[Position]) -> Signature:
    return tuple(sorted(Counter((name, dim) for name, dim, _ in positions).items()))


def _streams(traced: Traced, alike: list[list[int]]) -> list[Candidate]:
    """Classes that pass side by side, in parts of equal size, as the heads of a cascade read them, are one stream."""
    left, found = list(alike), []
    while left:
        parts = [left.pop(0)]
        rows = [row for row in traced.rows if not row.isdisjoint(parts[0])]
        beside = [part for part in left if any(not row.isdisjoint(part) for row in rows)]
        if all(len(part) == len(parts[0]) for part in beside):
            parts += beside
            left = [part for part in left if part not in beside]
        numbers = [number for part in _sorted(traced, parts) for number in part]
        found.append(Candidate("embed", None, tuple(numbers), len(parts)))
    return sorted(found, key=lambda each: traced.streams[each.numbers[0]])


def _sorted(traced: Traced, parts: list[list[int]]) -> list[list[int]]:
    ordered = [sorted(part, key=lambda number: _place(traced, number)) for part in parts]
    return sorted(ordered, key=lambda part: _place(traced, part[0]))


def _place(traced: Traced, number: int) -> int:
    """Where a class lies in the first parameter that has it, as a network is computed."""
    return traced.classes.positions[number][0][2]


def _inner(traced: Traced, unit: int | None, numbers: list[int]) -> Candidate | None:
    first = numbers[0]
    numbers = sorted(numbers, key=lambda number: _place(traced, number))
    if all(number in traced.classes.groups for number in numbers) and first not in traced.contracted:
        return None  # labels that stand for heads, see `heads`
    if first in traced.contracted or first in traced.carried:
        axis: Axis = "v" if first in traced.carried else "qk"  # what is both is a value with a query of its own
        heads = [traced.heads_of.get(number, set()) for number in numbers]
        if all(len(each) == 1 for each in heads):
            order = list(dict.fromkeys(next(iter(each)) for each in heads))
            parts = [[n for n, each in zip(numbers, heads, strict=True) if head in each] for head in order]
            if len({len(part) for part in parts}) == 1:
                return Candidate(axis, unit, tuple(n for part in parts for n in part), len(parts), tuple(order))
        return Candidate(axis, unit, tuple(numbers), 1)
    return Candidate(
        "hidden" if first in traced.spatial and _by_conv(traced, first) else "ffn", unit, tuple(numbers), 1
    )


def _evened(traced: Traced, found: list[Candidate]) -> list[Candidate]:
    """Heads that one product takes side by side must be of one width: such candidates become groups of one."""
    products = [set(traced.classes.of[p.contracted].tolist()) for p in traced.record.products]
    products += [set(traced.classes.of[labels].tolist()) for labels in traced.record.carried]
    for classes in products:
        beside = [each for each in found if each.numbers[0] in classes and each.axis in ("qk", "v")]
        heads = [set().union(*(traced.heads_of.get(n, set()) for n in each.numbers)) for each in beside]
        if len(beside) < 2 or not all(heads) or sum(map(len, heads)) > len(set().union(*heads)):
            continue
        found = [each for each in found if each not in beside]
        parts = [part for each in beside for part in np.split(np.array(each.numbers), each.groups)]
        if len({len(part) for part in parts}) == 1:
            numbers = tuple(int(n) for part in parts for n in part)
            named = tuple(head for each in beside for head in each.heads) if all(each.heads for each in beside) else ()
            found.append(Candidate(beside[0].axis, beside[0].unit, numbers, len(parts), named))
    return found


def _is_even(traced: Traced, candidate: Candidate) -> bool:
    """Does each unit lie in as many places of a parameter as the others that lie in it?"""
    counts: dict[tuple[str, int], set[int]] = defaultdict(set)
    for number in candidate.numbers:
        for place, count in _signature(traced.classes.positions[number]):
            counts[place].add(count)
    return all(len(each) == 1 for each in counts.values())


def _by_conv(traced: Traced, number: int) -> bool:
    """Is it written by a convolution?"""
    written = {name for name, dim, _ in traced.classes.positions[number] if dim == 0}
    return any(layer.kind == "conv" and layer.groups == 1 for layer in traced.record.layers if layer.weight in written)
