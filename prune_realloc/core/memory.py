"""The most memory that a pass of a network holds at once, as a formula of the widths of its sites. No torch here.

It is that of the weights, and of the activations at the moment when most of them are alive: the largest of several
sums, each of terms as the costs have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from prune_realloc.core.cost import Term, Widths
from prune_realloc.core.prices import Price, total

_Bytes = Annotated[int, Field(ge=0, le=10**15)]


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Bytes that are alive for every combination of units of some sites."""

    sites: tuple[str, ...] = ()
    each: _Bytes = 0
    """For each image."""
    shared: _Bytes = 0
    """Whatever the number of images."""
    most: tuple[_Bytes, _Bytes] | None = None
    """However many images, never more than the first of these; and nothing where it were more than the second."""
    unlike: tuple[str, str] | None = None
    """Only where these two sites differ in width."""

    def at(self, batch: int, place: str) -> Price:
        """The same at so many images."""
        each = self.each * batch
        if self.most is not None:
            most, too_much = self.most
            each = min(each, most) if each <= too_much else 0
        return Price(sites=self.sites, each=each + self.shared, unlike=self.unlike, component=place)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is alive at one time of a pass."""

    place: str
    """The module that is being computed."""
    alive: tuple[Alive, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a pass without gradients holds, in eager PyTorch on a CPU."""

    number: _Bytes
    """Bytes of a weight."""
    buffers: _Bytes
    """Bytes of all buffers, which are counted as those of the source."""
    moments: Annotated[tuple[Moment, ...], Field(min_length=1)]
    """Whatever the widths, one of them is when most is alive."""

    @property
    def sites(self) -> frozenset[str]:
        """That the formula reads."""
        every = (alive for moment in self.moments for alive in moment.alive)
        return frozenset(site for alive in every for site in (*alive.sites, *(alive.unlike or ())))

    def weights(self, terms: Sequence[Term]) -> tuple[Price, ...]:
        """Bytes of the weights and buffers of a network of these terms."""
        costs = [((), self.buffers), *((term.sites, self.number * term.params) for term in terms)]
        return tuple(Price(sites=sites, each=each, component="weights") for sites, each in costs if each)

    def activations(self, batch: int) -> tuple[tuple[Price, ...], ...]:
        """Of each moment: the bytes that are alive at so many images."""
        return tuple(tuple(alive.at(batch, moment.place) for alive in moment.alive) for moment in self.moments)

    def peak(self, terms: Sequence[Term], widths: Widths, batch: int) -> int:
        """Bytes of a network of these widths at so many images."""
        return total(self.weights(terms), widths) + max(total(prices, widths) for prices in self.activations(batch))
