"""The uniform network of the same cost as an emitted one."""

from __future__ import annotations

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
    places = places_of(target.model_copy(update={"per": "stage"}))
    heads = heads_per_stage(base_config(target))
    steps = [lcm(8, count) for count in heads]

    def shape(first: float, ratio: float) -> Shape:
        embed = [
            max(step, round(first * uniform_growth(target, stage) / step) * step) for stage, step in enumerate(steps)
        ]
        inner: dict[tuple[str, Place], int] = {}
        for place in places:
            part = embed[place.stage] // heads[place.stage]
            inner |= {
                ("qk", place): part,
                ("v", place): part,
                ("ffn", place): max(8, round(ratio * embed[place.stage] / 8) * 8),
            }
        return Shape(target, places, embed, inner)

    # every set of channels in the neighbourhood, each with the ratio that meets the goal
    best: tuple[float, float, EfficientVitConfig] | None = None
    seen = set()
    for tenth in range(40, 20_000):
        first = tenth / 10
        plain = shape(first, UNIFORM_FFN)
        if plain.embed in seen:
            continue
        seen.add(plain.embed)
        if shape(first, UNIFORM_FFN / 2).cost(kind) > goal:
            break
        if shape(first, 2 * UNIFORM_FFN).cost(kind) < goal:
            continue
        low, high = UNIFORM_FFN / 2, 2.0 * UNIFORM_FFN
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if shape(first, middle).cost(kind) <= goal else (low, middle)
        for ratio in (low, high):
            found = shape(first, ratio)
            off = abs(found.cost(kind) - goal) / goal
            key = (max(off - TOLERANCE / 2, 0.0), abs(ratio - UNIFORM_FFN), found.config())
            best = key if best is None or key[:2] < best[:2] else best
    if best is None or best[0] > TOLERANCE / 2:
        raise InputError(f"{kind}: no uniform network comes within {TOLERANCE:.0%} of {goal:,}; choose another budget")
    return best[2]
