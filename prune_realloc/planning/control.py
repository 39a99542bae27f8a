"""The uniform network of the same cost as an emitted one."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from prune_realloc.core.cost import Cost
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.shapes import (
    TOLERANCE,
    UNIFORM_FFN,
    Place,
    Shape,
    base_config,
    frame_of,
    heads_per_stage,
    places_of,
    uniform_growth,
)
from prune_realloc.recipe.target import Target


def uniform_control(target: Target, cost: Cost, kind: str) -> EfficientVitConfig:
    """The uniform network of the same cost: Q = K = V = embed / heads, one FFN ratio near 4, one growth.

    Its channels are multiples of 8 and of the heads; what that leaves is made up by the FFN ratio, the same in all
    stages, as near to 4 as it can be.

    Raises:
        InputError: no such network comes within 1 %.
    """
    goal = cost.of(kind)
    best: tuple[float, float, Shape] | None = None
    for ratio, found in _candidates(_UniformShapes(target), kind, goal):
        off = abs(found.cost(kind) - goal) / goal
        key = (max(off - TOLERANCE / 2, 0.0), abs(ratio - UNIFORM_FFN), found)
        best = key if best is None or key[:2] < best[:2] else best
    if best is None or best[0] > TOLERANCE / 2:
        raise InputError(f"{kind}: no uniform network comes within {TOLERANCE:.0%} of {goal:,}; choose another budget")
    return best[2].config()


class _UniformShapes:
    """The uniform networks of a target, by the channels of their first stage and their FFN ratio."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.places = places_of(target.model_copy(update={"per": "stage"}))
        self.frame = frame_of(target)
        self.heads = heads_per_stage(base_config(target))
        self.steps = [lcm(8, count) for count in self.heads]

    def channels(self, first: float) -> list[int]:
        """Channels of each stage, where the first has about `first`."""
        growths = [uniform_growth(self.target, stage) for stage in range(len(self.steps))]
        wanted = zip(self.steps, growths, strict=True)
        return [max(step, round(first * growth / step) * step) for step, growth in wanted]

    def shape(self, embed: list[int], ratio: float) -> Shape:
        """The network with these channels and this FFN ratio."""
        inner: dict[tuple[str, Place], int] = {}
        for place in self.places:
            part = embed[place.stage] // self.heads[place.stage]
            inner |= {
                ("qk", place): part,
                ("v", place): part,
                ("ffn", place): max(8, round(ratio * embed[place.stage] / 8) * 8),
            }
        return Shape(self.frame, self.places, embed, inner)


def _candidates(shapes: _UniformShapes, kind: str, goal: int) -> Iterator[tuple[float, Shape]]:
    """Every set of channels in the neighbourhood, with the FFN ratios on either side of the one that meets the goal."""
    seen = set()
    for tenth in range(40, 20_000):
        embed = shapes.channels(tenth / 10)
        if tuple(embed) in seen:
            continue
        seen.add(tuple(embed))
        if shapes.shape(embed, UNIFORM_FFN / 2).cost(kind) > goal:
            return
        if shapes.shape(embed, 2 * UNIFORM_FFN).cost(kind) < goal:
            continue
        low, high = UNIFORM_FFN / 2, 2.0 * UNIFORM_FFN
        fits: dict[tuple[int, ...], bool] = {}
        for _ in range(24):
            middle = (low + high) / 2
            shape = shapes.shape(embed, middle)
            widths = tuple(shape.inner.values())  # many ratios round to the same
            if widths not in fits:
                fits[widths] = shape.cost(kind) <= goal
            low, high = (middle, high) if fits[widths] else (low, middle)
        for ratio in (low, high):
            yield ratio, shapes.shape(embed, ratio)
