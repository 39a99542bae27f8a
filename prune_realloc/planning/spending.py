"""A budget spent: the multiplier that meets it, and what rounding left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import log

from prune_realloc.core.errors import InputError
from prune_realloc.planning.shapes import TOLERANCE, Place, Shape
from prune_realloc.planning.sizing import Sizing


@dataclass(frozen=True)
class _Step:
    """One width of a shape and its way to the next multiple."""

    component: str
    where: Place | int
    """The place; for `embed` the stage."""
    by: int
    wanted: float
    """Units that it wants to have."""
    asked: bool
    """Does it want more than its least?"""

    def width(self, shape: Shape) -> int:
        where = self.where
        return shape.embed[where] if isinstance(where, int) else shape.inner[self.component, where]

    def up(self, shape: Shape) -> Shape:
        return shape.raised(self.component, self.where, self.by)


def at_budget(sizing: Sizing, kind: str, limit: int) -> tuple[Shape, float]:
    """The widest shape within `limit`, spent to at least 99 %, and its multiplier.

    Raises:
        InputError: the rules leave no such shape.
    """
    multiplier = _multiplier(sizing, kind, limit)
    shape = _Spending(sizing, kind, limit, multiplier).spent(sizing.shape(multiplier))
    if shape.cost(kind) < (1 - TOLERANCE) * limit:
        raise InputError(
            f"{kind}: {limit:,} asked for, {shape.cost(kind):,} is the nearest below that the "
            "multiples allow; lower a rule's round_to"
        )
    return shape, multiplier


def filled(sizing: Sizing, shape: Shape, kind: str, limit: int) -> Shape | None:
    """The shape with any steps that spend at least 99 % of `limit`; None: there are none."""
    return _Spending(sizing, kind, limit, 1.0).filled(shape)


def _multiplier(sizing: Sizing, kind: str, limit: int) -> float:
    """The largest one whose shape is within `limit`."""
    cost = cache(lambda multiplier: sizing.shape(multiplier).cost(kind))
    low, high = 1.0, 2.0
    if cost(low) > limit:
        raise sizing.too_small(kind, limit, sizing.shape(low))
    while cost(high) <= limit:
        low, high = high, 2 * high
        if high > 1e6:
            raise InputError(
                f"{kind}: the rules leave at most {cost(low):,}, below the budget of {limit:,}; "
                "lower it, or loosen ceilings"
            )
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= limit else (low, middle)
    return low


class _Spending:
    """What rounding left of a budget, and the widths that it goes to."""

    def __init__(self, sizing: Sizing, kind: str, limit: int, multiplier: float) -> None:
        self.sizing, self.kind, self.limit, self.multiplier = sizing, kind, limit, multiplier

    def spent(self, shape: Shape) -> Shape:
        """What rounding left over goes, step by step, to the width that fell shortest and still fits.

        A width that asks for no more than its least gets some of it only where nothing else spends enough. Where no
        width inside blocks asks for more, all is in the channels, and their proportions come first.
        """
        if not any(step.asked for _, step in self._inner_steps(shape)):
            shape = self._with_other_channels(shape) or shape
        shape = self._widened(shape, lambda step, width: width < step.wanted)
        if self._meets_budget(shape):
            return shape
        found = self._exchanged(shape) or self._with_other_channels(shape) or self.filled(shape)
        return found or self._filled_nearby(shape) or self._widened(shape, lambda step, width: True)

    def filled(self, shape: Shape) -> Shape | None:
        """With any steps that spend enough, also of widths that ask for no more than their least."""
        found = self._widened(shape, lambda step, width: True)
        return found if self._meets_budget(found) else None

    def _filled_nearby(self, shape: Shape) -> Shape | None:
        """Where no step fits the channels as they are: others within two steps, the nearest to wanted first."""
        for embed in sorted(self._channels_around(shape), key=self._off):
            found = self._narrowed(self.sizing.completed(Shape(shape.frame, shape.places, embed, shape.inner)))
            if found is not None and (spent := self.filled(found)):
                return spent
        return None

    def _narrowed(self, shape: Shape) -> Shape | None:
        """Within the limit by steps down inside blocks, of what is the widest for what is wanted; None: not so."""
        while shape.cost(self.kind) > self.limit:
            steps = sorted(self._inner_steps(shape), key=lambda item: item[0])
            narrower = ((step, shape.raised(step.component, step.where, -self._whole_step(step))) for _, step in steps)
            found = next((one for step, one in narrower if self.sizing.allows(one, step.component, step.where)), None)
            if found is None:
                return None
            shape = found
        return shape

    def _widened(self, shape: Shape, may: Callable[[_Step, int], bool]) -> Shape:
        """With one step after the other, of those that `may` allows for their width, until the budget is spent or none
        fits."""
        while shape.cost(self.kind) < (1 - TOLERANCE / 4) * self.limit:
            steps = [step for step in self._steps(shape) if may(step, step.width(shape))]
            wider = (self.sizing.completed(step.up(shape)) for step in steps)
            fitting = next((found for found in wider if found.cost(self.kind) <= self.limit), None)
            if fitting is None:
                return shape
            shape = fitting
        return shape

    def _meets_budget(self, shape: Shape) -> bool:
        return (1 - TOLERANCE) * self.limit <= shape.cost(self.kind) <= self.limit

    def _exchanged(self, shape: Shape) -> Shape | None:
        """Where every step is too long: one width a step up and another a step down, if that spends enough."""
        steps = [step for step in self._steps(shape) if step.asked]
        for up in steps:
            wider = self.sizing.completed(up.up(shape))
            for down in reversed(steps):  # the one that is the widest for what is wanted
                narrower = wider.raised(down.component, down.where, -self._whole_step(down))
                same = (down.component, down.where) == (up.component, up.where)
                if same or not self.sizing.allows(narrower, down.component, down.where):
                    continue
                found = self.sizing.completed(narrower)
                if self._meets_budget(found):
                    return found
        return None

    def _with_other_channels(self, shape: Shape) -> Shape | None:
        """Where rules leave little else to move: the channels within two steps that spend enough, nearest to wanted."""
        for embed in sorted(self._channels_around(shape), key=self._off):
            found = self.sizing.completed(Shape(shape.frame, shape.places, embed, shape.inner))
            if self._meets_budget(found):
                return found
        return None

    def _off(self, embed: Sequence[int]) -> float:
        """How far channels are from those wanted."""
        wanted = (self.sizing.wanted_embed(stage, self.multiplier) for stage in range(len(embed)))
        return sum(abs(log(width / want)) for width, want in zip(embed, wanted, strict=True))

    def _channels_around(self, shape: Shape) -> Iterator[list[int]]:
        bounds = [self.sizing.embed_bounds(stage) for stage in range(len(shape.embed))]
        for steps in product(range(-2, 3), repeat=len(shape.embed)):
            moved = zip(shape.embed, steps, strict=True)
            embed = [width + by * self.sizing.embed_step(stage) for stage, (width, by) in enumerate(moved)]
            if all(low <= width <= high for width, (low, high) in zip(embed, bounds, strict=True)):
                yield embed

    def _whole_step(self, step: _Step) -> int:
        """The multiple that a width moves by."""
        if isinstance(step.where, int):
            return self.sizing.embed_step(step.where)
        return self.sizing.target.rule_of(step.component).round_to

    def _steps(self, shape: Shape) -> list[_Step]:
        """A step up of every width that may grow, the one first that fell shortest of what is wanted.

        Half a step past what is wanted is as good as half a step short of it.
        """
        found = [*self._embed_steps(shape), *self._inner_steps(shape)]
        return [step for _, step in sorted(found, key=lambda item: -item[0])]

    def _embed_steps(self, shape: Shape) -> Iterator[tuple[float, _Step]]:
        for stage, width in enumerate(shape.embed):
            by, (_, most) = self.sizing.embed_step(stage), self.sizing.embed_bounds(stage)
            wanted = self.sizing.wanted_embed(stage, self.multiplier)
            if width + by <= most:
                yield wanted / width / (1 + by / width) ** 0.5, _Step("embed", stage, by, wanted, True)

    def _inner_steps(self, shape: Shape) -> Iterator[tuple[float, _Step]]:
        for (component, place), width in shape.inner.items():
            rule, embed = self.sizing.target.rule_of(component), shape.embed[place.stage]
            if rule.width is not None or self.sizing.follows(component):
                continue
            by = rule.round_to - width % rule.round_to
            low, high = self.sizing.bounds(component, place, embed)
            if width + by > high:
                continue
            wanted = self.sizing.wanted(component, place, self.multiplier, embed)
            short = max(low, wanted) / width / (1 + by / width) ** 0.5
            yield short, _Step(component, place, by, wanted, wanted > low)
