"""Candidates -> sites: where their units lie, and where they can be switched off."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from prune_realloc.core.structure import Gate, Site, Slice
from prune_realloc.tracing.candidates import Candidate, Traced
from prune_realloc.tracing.classes import Position, unique
from prune_realloc.tracing.labels import Labels, compact, varies
from prune_realloc.tracing.record import Layer
from prune_realloc.tracing.residual import adding_gates

Places = Mapping[int, tuple[str, int]]
"""Class -> the site that it is a unit of, and which."""


@dataclass(frozen=True, eq=False)
class Sites:
    """All sites of a network."""

    every: tuple[Site, ...]
    """Streams first, then block by block."""
    of: Places
    """Of the classes of all sites but heads and blocks."""
    heads_of: Mapping[str, str]
    """Site of queries or values -> the heads that it lies in."""
    inside: Mapping[int, str]
    """Label -> the heads that it lies in."""
    of_group: Mapping[int, str]
    """Group of labels -> the heads that its first label lies in which lies in any."""
    blocks: Mapping[int, int]
    """Unit of the chain -> the number of its block."""
    whole: Mapping[int, str]
    """Unit of the chain that can go -> the site of the block."""


def sites(traced: Traced, model: nn.Module, found: Sequence[Candidate], droppable: Collection[int]) -> Sites:
    """Every candidate as a site, with the heads and the whole blocks.

    Args:
        droppable: units of the chain that may go whole.
    """
    inside = {each.unit for each in found if each.unit is not None}
    blocks = {unit: number for number, unit in enumerate(sorted(inside | set(droppable)))}
    names: Counter[tuple[str, int | None]] = Counter()
    streams = [each for each in found if each.unit is None]
    made: dict[str, Site] = {}
    of: dict[int, tuple[str, int]] = {}
    heads_of: dict[str, str] = {}
    heads: dict[tuple[int, ...], Site] = {}
    for candidate in found:
        block = None if candidate.unit is None else blocks[candidate.unit]
        stage = streams.index(candidate) if block is None and len(streams) > 1 else None
        site = _site(traced, candidate, block, stage, names[candidate.axis, block] if block is not None else 0)
        names[candidate.axis, block] += 1
        if not site.gates:
            continue  # where its units cannot be watched, nothing is known of them
        made[site.name] = site
        of |= {number: (site.name, unit) for number, unit in candidate.places.items()}
        if len(candidate.heads) > 1:
            if candidate.heads not in heads:
                whole = _heads(traced, candidate.heads, block, names["heads", block])
                names["heads", block] += 1
                if whole is not None:
                    heads[candidate.heads] = whole
            if candidate.heads in heads:
                heads_of[site.name] = heads[candidate.heads].name
    made |= {site.name: site for site in heads.values()}
    wholes = {unit: _whole(traced, model, unit, blocks[unit]) for unit in sorted(droppable)}
    made |= {site.name: site for site in wholes.values()}
    order = {axis: place for place, axis in enumerate(("block", "heads", "qk", "v", "ffn", "hidden"))}
    every = sorted(
        made.values(), key=lambda s: (-1, s.stage or 0, 0) if s.block is None else (s.block, order[s.axis], s.nth)
    )
    inner = {
        int(label): site.name for groups, site in heads.items() for group in groups for label in _members(traced, group)
    }
    return Sites(
        every=tuple(every),
        of=of,
        heads_of=heads_of,
        inside=inner,
        of_group=_heads_of_groups(traced, inner),
        blocks=blocks,
        whole={unit: site.name for unit, site in wholes.items()},
    )


def _site(traced: Traced, candidate: Candidate, block: int | None, stage: int | None, nth: int) -> Site:
    slices = _slices(traced, candidate)
    queries = not traced.contracted.isdisjoint(candidate.numbers)
    gates = _query_gates(traced, candidate) if queries else _reader_gates(traced, candidate.places)
    normed = set(traced.classes.of[unique(traced.record.normalised)].tolist()) & set(candidate.numbers)
    inner = normed and block is not None
    return Site(
        axis=candidate.axis,
        block=block,
        units=len(candidate.numbers),
        slices=slices,
        gates=gates,
        groups=candidate.groups,
        note="a norm acts on these units: cutting differs from masking by its statistics" if inner else "",
        stage=stage,
        nth=nth,
    )


def _slices(traced: Traced, candidate: Candidate) -> tuple[Slice, ...]:
    held: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for unit, number in enumerate(candidate.numbers):
        for name, dim, place in traced.classes.positions[number]:
            held[name, dim].append((unit, place))
    return tuple(Slice(name, dim, *_indexed(pairs, len(candidate.numbers))) for (name, dim), pairs in held.items())


def _indexed(pairs: Sequence[tuple[int, int]], units: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(unit, place) pairs -> places of each unit, shape (units, entries), and which units these are."""
    by_unit: dict[int, list[int]] = defaultdict(list)
    for unit, place in pairs:
        by_unit[unit].append(place)
    present = sorted(by_unit)
    index = np.array([by_unit[unit] for unit in present])
    return index, None if len(present) == units else np.array(present)


def _reader_gates(traced: Traced, places: Mapping[int, int]) -> tuple[Gate, ...]:
    """At the inputs of all layers that read the units."""
    found = {}
    for layer in traced.record.layers:
        if _is_depthwise(traced, layer):
            continue  # it hands each channel on
        numbers = traced.classes.of[layer.reads]
        pairs = [(places[int(n)], at) for at, n in enumerate(numbers) if int(n) in places]
        if pairs:
            index, units = _indexed(pairs, len(set(places.values())))
            found[layer.place] = Gate(layer.place, "input", index, layer.dim, units)
    return tuple(found.values())


def _is_depthwise(traced: Traced, layer: Layer) -> bool:
    return layer.kind == "conv" and layer.groups == len(layer.reads) > 1


def _query_gates(traced: Traced, candidate: Candidate) -> tuple[Gate, ...]:
    """At the last modules that give the queries, in which the logits are linear, and where layers read their units.

    Where they are divided by their lengths, at the keys too, which are of another length without these units.
    """
    places = candidate.places
    divided = set(traced.classes.of[unique(traced.record.lengths)].tolist()) & set(places)
    units = np.full(traced.record.ids.count, -1)
    for product in traced.record.products:
        if product.factors and set(traced.classes.of[product.contracted].tolist()) & set(places):
            for label in np.concatenate(product.factors[: 2 if divided else 1]):
                units[label] = places.get(int(traced.classes.of[label]), -1)
    last: dict[int, tuple[str, int]] = {}
    columns: dict[tuple[str, int], list[_Column]] = {}
    unit = traced.units[candidate.unit] if candidate.unit is not None else ""
    for layer in traced.record.layers:
        rows = traced.record.ids.runs[layer.weight, 0]
        labels = [rows.start + at for at in range(rows.size)]
        if not layer.own and (units[labels] >= 0).any():
            held = enumerate(labels)
            columns[layer.place, layer.dim] = [_Column(int(units[x]), at, (x,)) for at, x in held if units[x] >= 0]
            last |= {x: (layer.place, layer.dim) for x in labels if units[x] >= 0}
    for name, (_, _, out) in traced.record.calls.items():
        if isinstance(out, Labels) and name.startswith(f"{unit}."):
            for dim in (-1, 1) if out.ndim > 2 else (-1,):
                columns[name, dim] = _columns(out, dim, units)
                last |= {label: (name, dim) for column in columns[name, dim] for label in column.labels}
    if set(last) != set(np.flatnonzero(units >= 0).tolist()):
        return ()  # somewhere they cannot be watched
    found = []
    for at in dict.fromkeys(last.values()):
        pairs = [(each.unit, each.place) for each in columns[at] if any(last[label] == at for label in each.labels)]
        index, present = _indexed(pairs, len(places))
        found.append(Gate(at[0], "output", index, at[1], present))
    return (*found, *_reader_gates(traced, places))


@dataclass(frozen=True)
class _Column:
    """A channel of a tensor that holds queries."""

    unit: int
    place: int
    labels: tuple[int, ...]


def _columns(out: Labels, dim: int, units: np.ndarray) -> list[_Column]:
    """Those channels of a tensor along `dim` that hold queries; none where one holds several.

    Args:
        units: label -> the unit that it is a query of, or -1.
    """
    dim %= out.ndim
    for plane in out.planes:
        if varies(plane, dim) or out.shape[dim] == 1:
            rows = compact(plane.movedim(dim, -1), but=-1).reshape(-1, out.shape[dim]).long().numpy()
            held = units[rows]
            if (held == held[0]).all():
                return [
                    _Column(int(unit), at, tuple(np.unique(rows[:, at]).tolist()))
                    for at, unit in enumerate(held[0])
                    if unit >= 0
                ]
    return []


def _heads(traced: Traced, groups: Sequence[int], block: int | None, nth: int) -> Site | None:
    """Whole heads: all that lies in each of the groups."""
    held: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    units: set[int | None] = set()
    for head, group in enumerate(groups):
        for name, dim, place in _head_positions(traced, group):
            held[name, dim].append((head, place))
            units.add(traced.unit_of(name))
        if any(int(n) in traced.classes.whole for n in [group, *_head_classes(traced, group)]):
            return None
    if len(units) > 1:  # such as a table of positions that all blocks share
        return None
    if any(len({Counter(h for h, _ in pairs)[head] for head in range(len(groups))}) > 1 for pairs in held.values()):
        return None
    slices = tuple(Slice(name, dim, *_indexed(pairs, len(groups))) for (name, dim), pairs in held.items())
    places = {number: head for head, group in enumerate(groups) for number in _head_classes(traced, group)}
    carried = {number: head for number, head in places.items() if number in traced.carried}
    gates = _reader_gates(traced, carried)
    return Site("heads", block, len(groups), slices, gates, nth=nth) if gates else None


def _members(traced: Traced, group: int) -> np.ndarray:
    """The labels in a head."""
    return unique(traced.classes.groups[group])


def _head_classes(traced: Traced, group: int) -> list[int]:
    return np.unique(traced.classes.of[_members(traced, group)]).tolist()


def _head_positions(traced: Traced, group: int) -> list[Position]:
    """Where a head lies; of a class that lies in several heads only this head's own rows."""
    found: dict[Position, None] = dict.fromkeys(traced.classes.positions.get(group, []))
    own = _members(traced, group)
    for number in _head_classes(traced, group):
        if len(traced.heads_of[number]) == 1:
            found |= dict.fromkeys(traced.classes.positions[number])
    biases = {layer.weight: layer.bias for layer in traced.record.layers}
    for run in traced.record.ids.all_runs():
        if run.dim is not None:
            start, end = np.searchsorted(own, (run.start, run.start + run.size))
            for place in own[start:end] - run.start:
                found[run.name, run.dim, int(place)] = None
                bias = biases.get(run.name)
                if bias is not None and run.dim == 0:
                    found[bias, 0, int(place)] = None
    return list(found)


def _heads_of_groups(traced: Traced, inside: Mapping[int, str]) -> dict[int, str]:
    known = np.zeros(traced.record.ids.count, dtype=bool)
    known[list(inside)] = True
    found = {}
    for group, members in traced.classes.groups.items():
        labels = np.concatenate(members)
        known_ones = labels[known[labels]]
        if len(known_ones):
            found[group] = inside[int(known_ones[0])]
    return found


def _whole(traced: Traced, model: nn.Module, unit: int, block: int) -> Site:
    """A whole block as one unit: its parameters, and what its branches add to the stream."""
    name = traced.units[unit]
    parameters = model.get_submodule(name).named_parameters()
    slices = tuple(Slice(f"{name}.{n}", 0, np.arange(len(p) if p.ndim else 1)[None]) for n, p in parameters if p.ndim)
    return Site("block", block, 1, slices, adding_gates(traced, unit))
