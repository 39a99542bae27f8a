"""What a budget counts, as prices of units: multiply-adds, parameters, time, or several in one. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Widths
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.prices import PICOSECONDS, Price, total

LATENCY = "latency"
WHOLE = 10**12
"""The limit of several budgets in one: a cost of this is all of each of them."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A cost of networks, as a whole number."""

    kind: str
    """One of `KINDS`, or `latency`."""
    prices: tuple[Price, ...]

    def cost(self, widths: Widths) -> int:
        """What a network costs."""
        return total(self.prices, widths)

    @property
    def smooth(self) -> Measure:
        """Without the step where two widths become unlike: what remains grows with every width."""
        return replace(self, prices=tuple(price for price in self.prices if price.unlike is None))

    def exact(self, cost: int) -> str:
        """A cost in all its digits, in words."""
        return f"{cost / PICOSECONDS:.4g} ms" if self.kind == LATENCY else f"{cost:,}"

    def short(self, cost: int) -> str:
        """The same with three digits."""
        return f"{cost / PICOSECONDS:.3g} ms" if self.kind == LATENCY else short_count(cost)


def of_kind(analysis: Analysis, kind: str) -> Measure:
    """One of `KINDS`."""
    return Measure(kind=kind, prices=tuple(Price(sites=term.sites, each=term.of(kind)) for term in analysis.terms))


def of_time(table: LatencyTable) -> Measure:
    """Picoseconds for one batch."""
    return Measure(kind=LATENCY, prices=table.prices)


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
    return Measure(kind=" and ".join(measure.kind for measure in measures), prices=tuple(prices))


def short_count(count: int) -> str:
    """A number with three digits and a letter, such as 1.21M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
