"""What a combination of units costs, and prices in time that are fitted to measured networks. No torch here.

The time of a network is read as its multiply-adds and parameters are counted: a sum over the terms of its cost. What a
multiply-add and a parameter take depends on the axes that meet in the term (queries with channels, queries with keys),
and a block and the whole network take some time whatever their widths are. Attention has a step besides: a kernel
that wants queries and values of one width is left where these differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, log10, prod
from typing import Any

import numpy as np

from prune_realloc.core.cost import Term, Widths
from prune_realloc.core.structure import site_beside, site_place, without_dropped_blocks

_DIGITS = 13
"""Of the time of the source: prices are whole numbers, as costs are, and what adds up to it may be many small ones."""
_RIDGE = 0.03
"""Holds prices together that the measured networks cannot tell apart; as a share of the time of a network."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What every combination of units of some sites costs."""

    sites: tuple[str, ...]
    each: int
    unlike: tuple[str, str] | None = None
    """Counts only where these two sites differ in width."""
    component: str = ""
    """What it belongs to in reports, as of a `Term`."""

    def at(self, widths: Mapping[str, Any]) -> Any:
        """The cost at `widths`: numbers, or arrays of them, one entry for each way to choose."""
        cost = self.each * prod(widths[name] for name in self.sites)
        if self.unlike is None:
            return cost
        one, other = self.unlike
        return cost * (widths[one] != widths[other])

    @property
    def reads(self) -> set[str]:
        """The sites whose widths it depends on."""
        return {*self.sites, *(self.unlike or ())}


@dataclass(frozen=True)
class _Amount:
    """So much of one thing that takes time, for every combination of units, as `Price` has it."""

    of: str
    price: Price


def parts_of_a_millisecond(source_ms: float) -> int:
    """How many of what prices count are a millisecond, a power of ten, where the source takes so long."""
    return 10 ** max(0, _DIGITS - 1 - floor(log10(source_ms)))


def fitted_prices(terms: Iterable[Term], measured: Sequence[Widths], ms: Sequence[float]) -> tuple[Price, ...]:
    """Prices, in `parts_of_a_millisecond` of the first, by which measured networks take what they took; none negative.

    Args:
        terms: the cost of the network.
        measured: widths of every site of each network, the source first.
        ms: the time of each, in milliseconds.
    """
    amounts = list(_amounts(terms, measured[0]))
    rates, parts = _rates(amounts, measured, ms), parts_of_a_millisecond(ms[0])
    found: dict[Price, float] = {}
    for amount in amounts:
        one = replace(amount.price, each=1)
        found[one] = found.get(one, 0.0) + amount.price.each * rates[amount.of] * parts
    return tuple(replace(price, each=round(each)) for price, each in found.items() if round(each))


def total(prices: Iterable[Price], widths: Widths) -> int:
    """The cost of a network; a block whose width is 0 is gone with all that is in it."""
    left = without_dropped_blocks(widths)
    return int(sum(price.at(left) for price in prices))


def _amounts(terms: Iterable[Term], widths: Widths) -> Iterator[_Amount]:
    """All that takes time, as far as the widths show it."""
    yield _Amount("network", Price(sites=(), each=1, component="rest"))
    for name in widths:
        if site_place(name)[0] == "block":
            yield _Amount("block", Price(sites=(name,), each=1, component="rest"))
    for term in terms:
        if not term.sites:
            continue  # whatever it takes, the network always does
        axes = ", ".join(sorted(axis for axis, _ in map(site_place, term.sites) if axis != "block"))
        for what, each in (("multiply-adds", term.macs), ("parameters", term.params)):
            if each:
                price = Price(sites=term.sites, each=each, component=term.component)
                yield _Amount(f"{what} of {axes}", price)
        yield from _unfused(term, widths)


def _unfused(term: Term, widths: Widths) -> Iterator[_Amount]:
    """The logits of attention whose queries and values are of unlike widths."""
    inside = [name for name in term.sites if site_place(name)[0] == "qk"]
    if len(inside) != 1 or len(term.sites) != 2 or not term.macs:
        return
    [qk] = inside
    heads, v = site_beside(qk, "heads"), site_beside(qk, "v")
    if heads in term.sites and v in widths:
        yield _Amount("unlike", Price(sites=(heads,), each=term.macs, unlike=(qk, v), component="attention"))


def _rates(amounts: Sequence[_Amount], measured: Sequence[Widths], ms: Sequence[float]) -> dict[str, float]:
    """Milliseconds for one of each thing: least squares of relative errors, none below zero."""
    from scipy.optimize import nnls  # a third of a second, which no other command needs

    things = list(dict.fromkeys(amount.of for amount in amounts))
    column = {thing: place for place, thing in enumerate(things)}
    much = np.zeros((len(measured), len(things)))
    for row, widths in zip(much, measured, strict=True):
        left = without_dropped_blocks(widths)
        for amount in amounts:
            row[column[amount.of]] += amount.price.at(left)
    scale = np.maximum(much.max(axis=0), 1)
    shares = much / scale / np.asarray(ms, dtype=float)[:, None]
    # a thing's rate counts by the time that it takes at most, in relation to a typical network
    ridge = _RIDGE / np.median(ms) * np.eye(len(things))
    found, _ = nnls(np.vstack([shares, ridge]), np.append(np.ones(len(measured)), np.zeros(len(things))))
    return dict(zip(things, (found / scale).tolist(), strict=True))
