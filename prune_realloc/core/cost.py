"""Parameters and multiply-adds as closed formulas of the widths. No torch here.

A network's cost is a sum of terms, each a constant times a product of widths, so the formula itself is data: a
family states it once, and everything above evaluates it for any widths without building a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

Widths = Mapping[str, int]
"""Site name -> width. `qk` and `v` are per head; every other width is the number of units of the site."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    params: int = 0
    macs: int = 0
    """Multiply-adds for one image."""

    def of(self, kind: str) -> int:
        """The cost of one of `KINDS`."""
        return int(getattr(self, kind))

    def __add__(self, other: Cost) -> Cost:
        return Cost(params=self.params + other.params, macs=self.macs + other.macs)


@dataclass(frozen=True, kw_only=True)
class CostKind:
    """What a budget can count. Budget fields, flags, formats and tables follow from it."""

    name: str
    """The field of `Cost`, the key in files, and the flag: `--NAME`, and `--keep-NAME` for a share of the source."""
    label: str
    """Its heading in tables."""
    noun: str
    """What it counts, in a sentence."""
    example: str
    """A budget as one writes it."""


KINDS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind(name="macs", label="MACs", noun="multiply-adds", example="600M"),
        CostKind(name="params", label="params", noun="parameters", example="10M"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Term:
    """`params` parameters and `macs` multiply-adds for every combination of units of the sites in `sites`."""

    component: str
    """What the term belongs to in reports: qk, v, proj, ffn, norm, stem, head."""
    sites: tuple[str, ...] = ()
    params: int = 0
    macs: int = 0

    def cost(self, widths: Widths) -> Cost:
        units = prod(widths[site] for site in self.sites)
        return Cost(params=self.params * units, macs=self.macs * units)


def total_cost(terms: Iterable[Term], widths: Widths) -> Cost:
    """Cost of the whole network; norms, activations, biases and softmax count no multiply-adds.

    Equal to `torch.utils.flop_counter.FlopCounterMode` / 2 and to the number of parameters of the built model.
    """
    return sum((term.cost(widths) for term in terms), Cost())


def component_costs(terms: Iterable[Term], widths: Widths) -> dict[str, Cost]:
    """Cost of each component, in the order in which the terms name them."""
    costs: dict[str, Cost] = {}
    for term in terms:
        costs[term.component] = costs.get(term.component, Cost()) + term.cost(widths)
    return costs


def unit_macs(terms: Iterable[Term], widths: Widths, site: str) -> float:
    """Multiply-adds that one unit less of `site` saves, all other widths as they are."""
    return sum(term.cost(widths).macs / widths[site] for term in terms if site in term.sites)
