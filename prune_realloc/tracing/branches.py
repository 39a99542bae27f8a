"""What each unit of the chain adds to its stream: which layer writes it, from which site, read by which layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from prune_realloc.core.structure import Branch, Crossing, Pair, Site, Slice, Structure, common_module
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.record import Layer
from prune_realloc.tracing.residual import writers
from prune_realloc.tracing.sites import Sites
from prune_realloc.tracing.sums import given, taken


def unit_branches(traced: Traced, sites: Sites, unit: int) -> list[Branch]:
    """Of one unit: those that it adds, or, where it adds none one by one, its layers that write the stream."""
    stream = _stream(traced, sites, unit)
    if stream is None or not _keeps(traced, unit):
        return []
    if traced.added[unit]:
        wrote = [each.writer for each in traced.added[unit] if each.writer is not None]
        return _of_writers(traced, sites, unit, stream, wrote, {each.number for each in wrote})
    return joint_branches(traced, sites, unit)


def joint_branches(traced: Traced, sites: Sites, unit: int) -> list[Branch]:
    """The layers of a unit that write the stream, where what each adds to it cannot be told."""
    stream = _stream(traced, sites, unit)
    if stream is None or not _keeps(traced, unit):
        return []
    numbers = {number for number, (site, _) in sites.of.items() if site == stream}
    wrote = [each for each in writers(traced, unit, numbers) if _reads(traced, sites, each) not in (None, stream)]
    found = _of_writers(traced, sites, unit, stream, wrote, set())
    return [branch for branch in found if branch.fitted]


def _keeps(traced: Traced, unit: int) -> bool:
    """Does a unit give out a stream in the shape in which it takes it?"""
    came, went = taken(traced.record, traced.units[unit]), given(traced.record, traced.units[unit])
    same = {*traced.row(came)} == {*traced.row(went)}
    return same and len(came) == len(went) == 1 and came[0].shape == went[0].shape


def _of_writers(
    traced: Traced, sites: Sites, unit: int, stream: str, wrote: Sequence[Layer], alone: Collection[int]
) -> list[Branch]:
    """A branch for each of the layers.

    Args:
        alone: numbers of those whose output is added to the stream.
    """
    name, record = traced.units[unit], traced.record
    plain = {each.writer.number for each in traced.added[unit] if each.writer is not None and each.labels.plain}
    found, start = [], -1
    for writer in wrote:
        inside = [x for x in record.layers if start < x.number <= writer.number and x.weight.startswith(f"{name}.")]
        if writer not in inside:
            return []
        read = [x for x in inside if x.own and x.groups == 1 and _reads(traced, sites, x) == stream]
        read = [x for x in read if x is not writer]
        site = _reads(traced, sites, writer)
        fitted = site is not None and writer.own and writer.groups == 1
        path = common_module([x.weight for x in inside])
        found.append(
            Branch(
                name=path if path.startswith(f"{name}.") else writer.module,
                block=sites.blocks[unit],
                site=site if site is not None and fitted else stream,
                stream=stream,
                readers=tuple(x.module for x in read[:1] + [x for x in read[1:] if _same(x, read[0])]),
                writer=writer.module,
                post_norm=writer.number not in plain or writer.number not in alone,
                fitted=fitted,
            )
        )
        start = writer.number
    return found


def _same(a: Layer, b: Layer) -> bool:
    return bool((a.reads == b.reads).all()) if len(a.reads) == len(b.reads) else False


def _stream(traced: Traced, sites: Sites, unit: int) -> str | None:
    """The one stream that a unit gives out."""
    found = {sites.of[n][0] for n in traced.row(traced.record.calls[traced.units[unit]][2]) if n in sites.of}
    return found.pop() if len(found) == 1 else None


def _reads(traced: Traced, sites: Sites, layer: Layer) -> str | None:
    """The one site whose units a layer reads."""
    found = {sites.of.get(int(number), ("",))[0] for number in set(traced.classes.of[layer.reads].tolist())}
    return found.pop() or None if len(found) == 1 else None


def crossings(traced: Traced, sites: Sites) -> tuple[Crossing, ...]:
    """Layers that write a stream first, from units that lie between two streams."""
    found = []
    streams = [site.name for site in sites.every if site.axis == "embed"]
    for unit in sites.blocks:
        if unit in sites.whole or _keeps(traced, unit):
            continue
        stream = _stream(traced, sites, unit)
        if stream is None or stream == streams[0]:
            continue
        numbers = {number for number, (site, _) in sites.of.items() if site == stream}
        for writer in writers(traced, unit, numbers):
            site = _reads(traced, sites, writer)
            if site is not None and site not in streams and writer.own and writer.groups == 1:
                found.append(Crossing(site=site, stream=stream, writer=writer.module))
    return tuple(found)


def exits(traced: Traced, sites: Sites) -> dict[str, str]:
    """Layers outside of units that keep their stream, which read one."""
    streams = {site.name for site in sites.every if site.axis == "embed"}
    found = {}
    for layer in traced.record.layers:
        site = _reads(traced, sites, layer)
        unit = traced.unit_of(layer.weight)
        in_branches = unit is not None and unit in sites.blocks and _keeps(traced, unit)
        if site in streams and layer.own and layer.groups == 1 and not in_branches:
            found[layer.module] = site
    return found


def norms(traced: Traced) -> dict[str, str]:
    """Layer -> the batch norm that reads its output."""
    layers = {layer.number: layer.module for layer in traced.record.layers}
    batch = [norm for norm in traced.record.norms if norm.kind == "batch" and norm.pure]
    found = {layers[norm.source]: norm.module for norm in batch if norm.source is not None}
    return {layer: norm for layer, norm in found.items() if norm and layer}


def fitted_pairs(traced: Traced, sites: Sites, structure: Structure) -> tuple[Pair, ...]:
    """The pairs of whose activations and gradients the moments are known."""
    if not structure.branches:
        return ()
    by_name = {site.name: site for site in sites.every}
    known, keys = pairs(traced, sites), structure.writers()
    logits = {
        pair.site for pair in known if by_name[pair.site].axis == "qk" and by_name[pair.site].gates[0].units is None
    }
    return tuple(pair for pair in known if pair.site in logits | {*keys} and _is_all(pair, by_name[pair.site]))


def _is_all(pair: Pair, site: Site) -> bool:
    """Does nothing else hold units of its site?"""
    return {part.parameter for part in site.slices} == {part.parameter for part in (*pair.left, *pair.right)}


def pairs(traced: Traced, sites: Sites) -> tuple[Pair, ...]:
    """Queries with keys, and values with what reads them, where nothing but moves and scales lies between."""
    by_name = {site.name: site for site in sites.every}
    layers = {layer.number: layer for layer in traced.record.layers}
    found: dict[str, Pair] = {}
    for product in traced.record.products:
        contracted = {sites.of[n][0] for n in set(traced.classes.of[product.contracted].tolist()) if n in sites.of}
        (left, pure), (right, also) = product.sources
        if len(contracted) == 1 and pure and also and left is not None and right is not None:
            site = by_name[contracted.pop()]
            queries, keys = (
                _rows(traced, sites, site.name, layers[n], product.factors[k]) for k, n in ((0, left), (1, right))
            )
            if (
                all(len(part.index) == site.units and part.index.shape[1] == 1 for part in (*queries, *keys))
                and queries
                and keys
            ):
                found[site.name] = Pair(site.name, queries, keys, site.groups)
    return tuple(found.values()) + _value_pairs(traced, sites)


def _rows(traced: Traced, sites: Sites, site: str, layer: Layer, labels: Iterable[float]) -> tuple[Slice, ...]:
    """Where the units of `site` with these labels lie in the rows of a layer."""
    run = traced.record.ids.runs[layer.weight, 0]
    places: dict[int, list[int]] = {}
    for label in (int(x) for x in labels):
        number = int(traced.classes.of[label])
        if run.start <= label < run.start + run.size and sites.of.get(number, ("",))[0] == site:
            places.setdefault(sites.of[number][1], []).append(label - run.start)
    if not places or len({len(each) for each in places.values()}) > 1:
        return ()
    index = np.array([places[unit] for unit in sorted(places)])
    return tuple(Slice(name, 0, index) for name in (layer.weight, layer.bias) if name is not None)


def _value_pairs(traced: Traced, sites: Sites) -> tuple[Pair, ...]:
    by_name = {site.name: site for site in sites.every}
    layers = {layer.number: layer for layer in traced.record.layers}
    normed = set(norms(traced).values())
    found: dict[str, Pair] = {}
    for reader in traced.record.layers:
        site = by_name.get(_reads(traced, sites, reader) or "")
        if site is None or site.axis != "v" or reader.source is None or not reader.pure:
            continue
        layer = layers[reader.source]
        run = traced.record.ids.runs[layer.weight, 0]
        rows = _rows(traced, sites, site.name, layer, range(run.start, run.start + run.size))
        columns = tuple(part for part in site.slices if (part.parameter, part.dim) == (reader.weight, 1))
        others = {part.parameter for part in site.slices} - {p.parameter for p in (*rows, *columns)}
        alone = all(part.index.shape == (site.units, 1) for part in (*rows, *columns))
        if rows and columns and alone and not others and layer.own and not normed & {layer.module}:
            found[site.name] = Pair(site.name, rows, columns, site.groups)
    return tuple(found.values())
