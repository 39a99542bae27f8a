"""What a network costs, as a formula of the widths of its sites: it follows from where their units lie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product as combinations
from math import prod

import numpy as np
from torch import nn

from prune_realloc.core.cost import Term
from prune_realloc.core.structure import site_place
from prune_realloc.tracing.candidates import Traced
from prune_realloc.tracing.record import Product
from prune_realloc.tracing.sites import Sites

Part = tuple[tuple[str, ...], int]
"""Sites whose widths a number (of positions, of multiply-adds) is a multiple of, and the number."""


def terms(traced: Traced, model: nn.Module, sites: Sites) -> tuple[Term, ...]:
    """The cost of every parameter, and of every product of activations."""
    found: dict[tuple[str, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    widths = {site.name: site.width for site in sites.every}
    used = _positions(traced)
    for name, parameter in model.named_parameters():
        for names, count, macs in _parameter(traced, sites, name, tuple(parameter.shape), used.get(name, 0)):
            names = _with_block(traced, sites, name, names)
            share = prod(widths[site] for site in names)
            key = (_component(traced, names, name, tuple(parameter.shape)), names)
            found[key] += Counter(params=count // share, macs=macs // share)
    for each in traced.record.products:
        for whole, factors in ((each.macs, each.factors), *each.bare):
            for names, macs in _of_product(traced, sites, each, factors, whole):
                key = (_of_axes(names) or "attention", names)
                found[key] += Counter(macs=macs // prod(widths[site] for site in names))
    if traced.record.computed:
        found["other", ()] += Counter(macs=traced.record.computed)
    return tuple(Term(component=key[0], sites=key[1], **costs) for key, costs in found.items())


def _positions(traced: Traced) -> dict[str, int]:
    """Weight -> how often it is applied to one image."""
    found: Counter[str] = Counter()
    for layer in traced.record.layers:
        found[layer.weight] += layer.positions
    return dict(found)


def _parameter(
    traced: Traced, sites: Sites, name: str, shape: tuple[int, ...], positions: int
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(sites, numbers, multiply-adds) of the parts of one parameter."""
    parts: list[list[Part]] = []
    along = _along(traced, sites, name)
    for dim, size in enumerate(shape):
        parts.append(along.get(dim, [((), size)]))
    for chosen in combinations(*parts):
        count = prod(size for _, size in chosen)
        yield tuple(site for names, _ in chosen for site in names), count, count * positions


def _along(traced: Traced, sites: Sites, name: str) -> dict[int, list[Part]]:
    """Dimension of a parameter -> its parts along it."""
    found = {}
    rows = {layer.bias: layer.weight for layer in traced.record.layers}
    for run in traced.record.ids.all_runs():
        if run.name == name:
            dim, numbers = traced.classes.along(run)
            if len(numbers):
                shown = traced.record.ids.runs.get((rows.get(name, name), dim), run)
                labels = [None] * len(numbers) if shown.dim is None else range(shown.start, shown.start + len(numbers))
                pairs = zip(numbers.tolist(), labels, strict=True)
                found[dim] = list(Counter(_sites_of(traced, sites, *pair) for pair in pairs).items())
    return found


def _sites_of(traced: Traced, sites: Sites, number: int, label: int | None) -> tuple[str, ...]:
    """The sites that decide whether something of a class, which stands at a label, is there."""
    heads = sites.inside.get(label) if label is not None else None
    if number in sites.of:
        site = sites.of[number][0]
        heads = heads or sites.heads_of.get(site)
        return (heads, site) if heads is not None else (site,)
    lies = traced.heads_of.get(number, set())
    group = number if number in traced.classes.groups else next(iter(lies)) if len(lies) == 1 else None
    if heads is None and group is not None:
        heads = sites.of_group.get(group)
    return () if heads is None else (heads,)


def _of_product(
    traced: Traced, sites: Sites, product: Product, factors: Sequence[np.ndarray], macs: int
) -> Iterator[Part]:
    """The parts of `macs` multiply-adds of a product, where units of several sites lie side by side: the sites whose
    widths they grow with, one of them twice where it runs over its units on both sides, each with each."""
    summed = set(traced.classes.of[product.contracted].tolist())
    sides: list[list[tuple[bool, tuple[str, ...], int]]] = []
    left = 2  # what is summed over comes on both sides and counts once
    for factor in factors:
        shared = left > 0 and set(traced.classes.of[factor].tolist()) <= summed
        parts = Counter(_sites_of(traced, sites, int(traced.classes.of[label]), int(label)) for label in factor)
        if not shared or left == 2 or len(parts) == 1:  # else each part meets its like
            sides.append([(shared, names, count) for names, count in parts.items()])
        left -= shared
    whole = prod(sum(count for _, _, count in side) for side in sides)
    for chosen in combinations(*sides):
        names: dict[str, None] = {}
        again = []
        for shared, own, _ in chosen:
            again += [site for site in own if site in names and not shared and site_place(site)[0] != "heads"]
            names |= dict.fromkeys(own)
        yield (*names, *again), macs * prod(count for _, _, count in chosen) // whole


def _with_block(traced: Traced, sites: Sites, name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """What no site of its block narrows goes with the whole block."""
    unit = traced.unit_of(name)
    if unit is None or unit not in sites.whole or any(site_place(site)[1] is not None for site in names):
        return names
    return (*names, sites.whole[unit])


def _component(traced: Traced, names: Sequence[str], parameter: str, shape: tuple[int, ...]) -> str:
    axes = [site_place(name)[0] for name in names]
    weighs = any(layer.weight == parameter for layer in traced.record.layers)
    if not weighs and not parameter.endswith("bias"):
        return "norm" if len(shape) == 1 else "position"
    inner = _of_axes(names)
    if inner == "v" and weighs and axes and axes[-1] == "v":
        return "proj"
    if inner is not None:
        return inner
    unit = traced.unit_of(parameter)
    if unit is None:
        first = traced.record.layers[0].weight if traced.record.layers else ""
        return "stem" if parameter.split(".")[0] == first.split(".")[0] else "head"
    return "merging" if axes.count("embed") > 1 else "other"


def _of_axes(names: Sequence[str]) -> str | None:
    axes = {site_place(name)[0] for name in names}
    return next((axis for axis in ("qk", "v", "ffn", "hidden", "heads") if axis in axes), None)
