"""The channels of the stages that lose least at a budget, everything inside blocks at its least: found exactly."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from prune_realloc.core.errors import InputError
from prune_realloc.planning.curves import Curve
from prune_realloc.planning.shapes import TOLERANCE, Shape
from prune_realloc.planning.sizing import UNBOUNDED, Sizing
from prune_realloc.planning.spending import filled


class StageCosts:
    """What every choice of channels within a budget costs, with the least widths inside blocks.

    A stage costs what its own channels say, and two neighbours, through the patch merging between them, the product of
    their channels. So the networks that have one stage wider than the least tell the cost of all.
    """

    def __init__(self, sizing: Sizing, kind: str, limit: int) -> None:
        """
        Raises:
            InputError: the least that the rules allow costs more than `limit`.
        """
        self.sizing, self.kind, self.limit = sizing, kind, limit
        stages = range(len(sizing.start.embed))
        self.steps = [sizing.embed_step(stage) for stage in stages]
        self.least = [
            ceil(sizing.embed_bounds(stage)[0] / step) * step for stage, step in zip(stages, self.steps, strict=True)
        ]
        self.base = self.shape(self.least).cost(kind)
        if self.base > limit:
            raise sizing.too_small(kind, limit, self.shape(self.least))
        self.own: list[list[int]] = [[0] for _ in stages]
        """Stage -> what it costs above the base with 0, 1, 2 .. steps more channels; the last one's are found as far as
        they are asked for, because they are many."""
        for stage in stages[:-1]:
            self._extend(stage, None)
        self.shared = [self._shared_cost(stage) for stage in stages[:-1]]

    def shape(self, embed: Sequence[int]) -> Shape:
        """The network with these channels and the least inside blocks."""
        inner = {(component, place): 0 for component, place in self.sizing.start.inner}
        return self.sizing.completed(Shape(self.sizing.start.frame, self.sizing.places, embed, inner))

    def best(self, curves: Sequence[Curve]) -> Shape:
        """The network within the budget, spent to at least 99 %, whose stages lose least together.

        Where the multiples of the channels leave more, the rest goes inside blocks.

        Raises:
            InputError: the rules leave no such network.
        """
        embed = self._search(curves, (1 - TOLERANCE) * self.limit)
        if embed is not None:
            return self.shape(embed)
        embed = self._search(curves, 0)
        assert embed is not None  # the least is within the budget
        bounds = map(self.sizing.embed_bounds, range(len(embed)))
        may = any(width + step <= most for width, step, (_, most) in zip(embed, self.steps, bounds, strict=True))
        found = filled(self.sizing, self.shape(embed), self.kind, self.limit) if may else None
        if found is None:
            raise InputError(
                f"{self.kind}: the rules leave {self.shape(embed).cost(self.kind):,} with everything inside blocks at "
                f"its least, below the budget of {self.limit:,}; lower it, or loosen ceilings or round_to of embed"
            )
        return found

    def _search(self, curves: Sequence[Curve], floor: float) -> list[int] | None:
        """Channels of the least loss that cost from `floor` to the limit; None where there are none.

        The more channels the last stage has, the less is lost and the more it costs, so that for given channels of the
        others only the most that fit need be looked at.
        """
        losses = [curve.loss(self._channels(stage)) for stage, curve in enumerate(curves[:-1])]
        cost, loss = self.base + np.array(self.own[0]), losses[0]
        for stage in range(1, len(losses)):
            shared = self.shared[stage - 1] * np.multiply.outer(self._more(stage - 1), self._more(stage))
            cost, loss = cost[..., None] + self.own[stage] + shared, loss[..., None] + losses[stage]
        while True:
            best, steps = self._best_last(cost, loss, curves[-1], floor)
            widest = self.own[-1][-1] + self.shared[-1] * self._more(-2) * self._more(-1)[-1]
            rest = loss[cost + widest <= self.limit]  # what others lose beside more of the last stage than is known
            known = len(self.own[-1])
            if rest.min(initial=np.inf) < best:
                self._extend(-1, known)
            if len(self.own[-1]) == known:
                break
        if steps is None:
            return None
        return [least + step * by for least, step, by in zip(self.least, self.steps, steps, strict=True)]

    def _best_last(
        self, cost: np.ndarray, loss: np.ndarray, curve: Curve, floor: float
    ) -> tuple[float, tuple[int, ...] | None]:
        """The least loss and the steps of all stages, of those channels of the last that are known.

        Args:
            cost, loss: of the other stages, an axis each.
        """
        best, found = np.inf, None
        more, own, losses = self._more(-1), np.array(self.own[-1]), curve.loss(self._channels(-1))
        for place, before in enumerate(self._more(-2)):
            last = own + self.shared[-1] * before * more
            most = np.searchsorted(last, self.limit - cost[..., place], side="right") - 1
            spent = cost[..., place] + last[most]
            total = np.where((most >= 0) & (spent >= floor), loss[..., place] + losses[most], np.inf)
            if total.min() < best:
                where = np.unravel_index(total.argmin(), total.shape)
                best, found = float(total.min()), (*map(int, where), place, int(most[where]))
        return best, found

    def _extend(self, stage: int, count: int | None) -> None:
        """Find what `count` further steps cost, or all, as far as they fit alone."""
        own, (_, ceiling) = self.own[stage], self.sizing.embed_bounds(stage % len(self.own))
        end = UNBOUNDED if count is None else len(own) + count
        while len(own) < end:
            cost = self._above({stage % len(self.own): len(own)})
            if self.least[stage] + len(own) * self.steps[stage] > ceiling or self.base + cost > self.limit:
                return
            own.append(cost)

    def _more(self, stage: int) -> np.ndarray:
        """Channels above the least."""
        return self.steps[stage] * np.arange(len(self.own[stage]))

    def _channels(self, stage: int) -> np.ndarray:
        return self.least[stage] + self._more(stage)

    def _shared_cost(self, stage: int) -> int:
        """Cost of one more channel in a stage for each more in the next."""
        both = self._above({stage: 1, stage + 1: 1}) - self._above({stage: 1}) - self._above({stage + 1: 1})
        return both // (self.steps[stage] * self.steps[stage + 1])

    def _above(self, steps: dict[int, int]) -> int:
        embed = [least + steps.get(stage, 0) * self.steps[stage] for stage, least in enumerate(self.least)]
        return self.shape(embed).cost(self.kind) - self.base
