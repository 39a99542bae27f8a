"""What a budget counts, as prices of units: multiply-adds, parameters, time, memory, or several in one. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Widths
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.memory import Memory
from prune_realloc.core.prices import Price, total
from prune_realloc.recipe.budget import MEGABYTE

LATENCY, PEAK = "latency", "peak"
TOO_MUCH = 10**13
"""More than any limit: the cost of what does not fit under a ceiling."""
WHOLE = 10**12
"""The limit of several budgets in one: a cost of this is all of each of them."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A cost of networks, as a whole number."""

    kind: str
    """One of `KINDS`, `latency` or `peak`."""
    prices: tuple[Price, ...]
    moments: tuple[tuple[Price, ...], ...] = ()
    """The largest of these sums counts besides;"""
    ceiling: int | None = None
    """or, with a ceiling, none of them may be above it."""
    unit: tuple[int, str] | None = None
    """So many make one of this unit, where it is no cost of `KINDS`: nobody wants more of it than accuracy needs."""

    def cost(self, widths: Widths) -> int:
        """What a network costs."""
        return total(self.prices, widths) + (self.largest(widths) if self.ceiling is None else 0)

    def largest(self, widths: Widths) -> int:
        """The largest of the sums of `moments`."""
        return max((total(prices, widths) for prices in self.moments), default=0)

    def over(self, widths: Widths) -> bool:
        """Do the widths, of all sites or of some, not fit under the ceiling?"""
        known = (moment for moment in self.moments if all(price.reads <= widths.keys() for price in moment))
        return self.ceiling is not None and any(total(moment, widths) > self.ceiling for moment in known)

    @property
    def must_be_spent(self) -> bool:
        """Whether a plan that leaves much of it could be better."""
        return self.unit is None

    @property
    def smooth(self) -> Measure:
        """Without the step where two widths become unlike: what remains grows with every width."""
        prices, *moments = (
            tuple(price for price in some if price.unlike is None) for some in (self.prices, *self.moments)
        )
        return replace(self, prices=prices, moments=tuple(moments))

    @property
    def dear(self) -> Measure:
        """As if widths were unlike at every moment: no network that is nowhere wider costs more."""
        moments = (tuple(replace(price, unlike=None) for price in moment) for moment in self.moments)
        return replace(self, moments=tuple(moments))

    @property
    def cheap(self) -> Measure:
        """As if widths were alike at every moment: no network that is nowhere narrower costs less."""
        moments = (tuple(price for price in moment if price.unlike is None) for moment in self.moments)
        return replace(self, moments=tuple(moments))

    def under(self, ceiling: int) -> Measure:
        """With a ceiling on what counts by its maximum, instead of that."""
        return replace(self, ceiling=ceiling) if self.moments else self

    def exact(self, cost: int) -> str:
        """A cost in all its digits, in words."""
        return f"{cost:,}" if self.unit is None else _in_unit(cost, self.unit, 4)

    def short(self, cost: int) -> str:
        """The same with three digits."""
        return short_count(cost) if self.unit is None else _in_unit(cost, self.unit, 3)


def of_kind(analysis: Analysis, kind: str) -> Measure:
    """One of `KINDS`."""
    return Measure(kind=kind, prices=tuple(Price(sites=term.sites, each=term.of(kind)) for term in analysis.terms))


def of_time(table: LatencyTable) -> Measure:
    """What one batch takes."""
    return Measure(kind=LATENCY, prices=table.prices, unit=(table.parts, "ms"))


def of_memory(analysis: Analysis, memory: Memory, batch: int) -> Measure:
    """Bytes that are held at once at so many images."""
    weights, moments = memory.weights(analysis.terms), memory.activations(batch)
    return Measure(kind=PEAK, prices=weights, moments=moments, unit=(MEGABYTE, "MB"))


def together(measures: Sequence[Measure], limits: Sequence[int], weights: Sequence[float]) -> Measure:
    """A mean of the shares that are spent of several limits, in parts of `WHOLE`; whoever meets all meets this too.

    Args:
        weights: of each, with sum 1.
    """
    prices = [
        replace(price, each=round(weight * WHOLE * price.each / limit))
        for measure, limit, weight in zip(measures, limits, weights, strict=True)
        for price in measure.prices
    ]
    under = next((measure for measure in measures if measure.moments), None)
    return Measure(
        kind=" and ".join(measure.kind for measure in measures),
        prices=tuple(prices),
        moments=() if under is None else under.moments,
        ceiling=None if under is None else under.ceiling,
    )


def _in_unit(cost: int, unit: tuple[int, str], digits: int) -> str:
    each, name = unit
    return f"{cost / each:.{digits}g} {name}"


def short_count(count: int) -> str:
    """A number with three digits and a letter, such as 1.21M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
