"""The kinds of cost, and what a network costs as a closed formula of its widths. No torch here.

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
class CostKind:
    """What a budget can count. Fields of recipes, flags, formats and tables follow from it."""

    name: str
    """The field of `Cost` and `Term`, the key in files, and the flag: `--NAME`, and `--keep-NAME` for a share."""
    label: str
    """Its heading in tables."""
    noun: str
    """What it counts, in a sentence."""
    scope: str = ""
    """What one network's number is for, as the end of a sentence: ` for one image`; empty: for the network."""
    example: str
    """A budget of a pruned network as one writes it."""
    emitted_example: str
    """A budget of an emitted network, which is smaller."""
    large_example: str = ""
    """A large budget, where it is written with another letter than the examples."""
    least: int = 1
    """The least that a network can cost."""


KINDS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind(
            name="macs",
            label="MACs",
            noun="multiply-adds",
            scope=" for one image",
            example="600M",
            emitted_example="80M",
            large_example="1.2G",
            least=0,
        ),
        CostKind(name="params", label="params", noun="parameters", example="10M", emitted_example="2.3M"),
    )
}
"""The kinds of cost by name. A further kind is an entry here and a field of `Cost` and of `Term`."""
DEFAULT_KIND = next(iter(KINDS))
"""What is counted where nobody says what."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network, or a part of one, costs: a field for each of `KINDS`."""

    params: int = 0
    macs: int = 0
    """Multiply-adds for one image."""

    def of(self, kind: str) -> int:
        """The cost of one of `KINDS`."""
        amount: int = getattr(self, kind)
        return amount

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{kind: self.of(kind) + other.of(kind) for kind in KINDS})


@dataclass(frozen=True, kw_only=True)
class Term:
    """What every combination of units of the sites in `sites` costs: a field for each of `KINDS`."""

    component: str
    """What the term belongs to in reports: qk, v, proj, ffn, norm, stem, head."""
    sites: tuple[str, ...] = ()
    params: int = 0
    macs: int = 0
    """Multiply-adds for one image."""

    def of(self, kind: str) -> int:
        """The cost of one combination of units, of one of `KINDS`."""
        amount: int = getattr(self, kind)
        return amount

    def cost(self, widths: Widths) -> Cost:
        """The cost of all combinations of units at `widths`."""
        units = prod(widths[site] for site in self.sites)
        return Cost(**{kind: self.of(kind) * units for kind in KINDS})


def total_cost(terms: Iterable[Term], widths: Widths) -> Cost:
    """Cost of the whole network; norms, activations, biases and softmax count no multiply-adds.

    Equal to `torch.utils.flop_counter.FlopCounterMode` / 2 and to the number of parameters of the built model.
    """
    amounts = dict.fromkeys(KINDS, 0)
    for term in terms:  # planners ask this tens of thousands of times
        units = prod(widths[site] for site in term.sites)
        for kind in KINDS:
            amounts[kind] += term.of(kind) * units
    return Cost(**amounts)


def component_costs(terms: Iterable[Term], widths: Widths) -> dict[str, Cost]:
    """Cost of each component, in the order in which the terms name them."""
    costs: dict[str, Cost] = {}
    for term in terms:
        costs[term.component] = costs.get(term.component, Cost()) + term.cost(widths)
    return costs


def unit_cost(terms: Iterable[Term], widths: Widths, site: str, kind: str) -> float:
    """What one unit less of `site` saves of one of `KINDS`, all other widths as they are."""
    return sum(term.cost(widths).of(kind) / widths[site] for term in terms if site in term.sites)
