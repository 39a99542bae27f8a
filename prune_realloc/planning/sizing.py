"""From what pruning kept to widths: what a multiplier asks for, bounds, and multiples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Any

from prune_realloc.core.errors import InputError
from prune_realloc.planning.retention import Retention
from prune_realloc.planning.shapes import (
    UNIFORM_FFN,
    Place,
    Shape,
    base_config,
    frame_of,
    heads_per_stage,
    places_of,
    stage_growth,
)
from prune_realloc.recipe.target import Target

UNBOUNDED = 10**9
"""More units than any network has."""
_FEW_TOKENS = 7
"""Along a side of the first stage: with fewer, the last stage has hardly any."""
_PAPERS_STRIDE = 16
"""Of the whole stem."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The network whose widths are scaled by what pruning kept; they count the channels of its first stage as one."""

    frame: Mapping[str, Any]
    """Arguments of `EfficientVitConfig` that are no widths."""
    places: Sequence[Place]
    """The runs of blocks that share their widths."""
    heads: Sequence[int]
    """Heads of each stage."""
    embed: Sequence[float]
    """Channels of each stage."""
    inner: Mapping[tuple[str, Place], float]
    """Component and place -> its width; of Q/K and V in all heads together."""


def uniform_start(target: Target) -> Start:
    """The uniform network: Q = K = V = embed / heads, one FFN ratio, and the growth of the target."""
    places = places_of(target)
    embed = [stage_growth(target, stage) for stage in range(1 + places[-1].stage)]
    return Start(
        frame=frame_of(target),
        places=places,
        heads=heads_per_stage(base_config(target)),
        embed=embed,
        inner={
            (component, place): embed[place.stage] * ratio
            for place in places
            for component, ratio in (("qk", 1), ("v", 1), ("ffn", UNIFORM_FFN))
        },
    )


class Sizing:
    """The widths that a multiplier asks for, and what the rules make of them."""

    def __init__(self, target: Target, start: Start, kept: Retention) -> None:
        self.target, self.start, self.kept = target, start, kept
        self.places, self.heads = start.places, start.heads

    def follows(self, component: str) -> bool:
        """Is it as wide as the channels of its stage say, whatever pruning kept elsewhere?"""
        rule = self.target.rule_of(component)
        return rule.width is None and (rule.ratio is not None or not rule.move or component not in self.kept.whole)

    def wanted_embed(self, stage: int, multiplier: float) -> float:
        """Channels of a stage before rounding and bounds."""
        tilt = self.kept.stage[stage] if self.target.rule_of("embed").move else 1.0
        return multiplier * self.start.embed[stage] * tilt

    def wanted(self, component: str, place: Place, multiplier: float, embed: float) -> float:
        """Before rounding and bounds; `embed` is what the stage's channels came out as."""
        rule, per_head = self.target.rule_of(component), component != "ffn"
        unit = embed / self.heads[place.stage] if per_head else embed
        start = self.start.inner[component, place]
        if rule.width is not None:
            return rule.width
        if self.follows(component):
            return unit * (rule.ratio or start / self.start.embed[place.stage])
        return multiplier * start * self.kept.component[component, place] / (self.heads[place.stage] if per_head else 1)

    def bounds(self, component: str, place: Place, embed: float) -> tuple[float, float]:
        """The least and the most that the rules allow inside a block, where its stage has `embed` channels.

        The least is the first multiple, unless a floor is set, which is exact and holds against a ceiling. What goes
        with the channels is as narrow as they make it.
        """
        rule = self.target.rule_of(component)
        unit = embed / self.heads[place.stage] if component != "ffn" else embed
        high = min(rule.ceiling or UNBOUNDED, (rule.ceiling_ratio or UNBOUNDED) * unit)
        floor = max(rule.floor or 0, (rule.floor_ratio or 0) * unit)
        least = 1 if self.follows(component) else rule.round_to
        return floor or min(least, int(max(high, 1))), high

    def embed_step(self, stage: int) -> int:
        """What the channels of a stage are a multiple of."""
        return lcm(self.target.rule_of("embed").round_to, self.heads[stage])

    def embed_bounds(self, stage: int) -> tuple[int, int]:
        """The least and the most channels that the rules allow."""
        rule = self.target.rule_of("embed")
        return rule.floor or self.embed_step(stage), rule.ceiling or UNBOUNDED

    def too_small(self, kind: str, limit: int, least: Shape) -> InputError:
        """What to say of a budget that the least network of the rules exceeds."""
        strides = self.start.frame["stem_strides"]
        size = self.start.frame["img_size"]
        tokens = ceil((min(size) if isinstance(size, tuple) else size) / prod(strides))
        stem = ""
        if tokens > _FEW_TOKENS and prod(strides) < _PAPERS_STRIDE:
            stem = f", or let the stem stride by more than {list(strides)}, it leaves {tokens} x {tokens} tokens"
        return InputError(
            f"{kind}: the budget of {limit:,} is below the least that the rules allow, {least.cost(kind):,} "
            f"(embed {list(least.embed)}); raise it, or lower floors or round_to{stem}"
        )

    def shape(self, multiplier: float) -> Shape:
        """Every width at its nearest multiple, inside its bounds."""
        embed: list[int] = []
        for stage in range(len(self.start.embed)):
            step, (floor, ceiling) = self.embed_step(stage), self.embed_bounds(stage)
            nearest = round(self.wanted_embed(stage, multiplier) / step) * step
            embed.append(max(min(nearest, ceiling // step * step), ceil(floor / step) * step))
        inner: dict[tuple[str, Place], int] = {}
        for place in self.places:
            for component in ("qk", "v", "ffn"):
                low, high = self.bounds(component, place, embed[place.stage])
                wanted = self.wanted(component, place, multiplier, embed[place.stage])
                inner[component, place] = self._rounded(component, wanted, low, high)
        return Shape(self.start.frame, self.places, embed, inner)

    def completed(self, shape: Shape) -> Shape:
        """The shape with the widths that follow from its channels, and with bounds met."""
        inner = dict(shape.inner)
        for (component, place), width in shape.inner.items():
            embed = shape.embed[place.stage]
            low, high = self.bounds(component, place, embed)
            if self.follows(component):
                inner[component, place] = self._rounded(component, self.wanted(component, place, 1.0, embed), low, high)
            elif not low <= width <= high:
                inner[component, place] = self._rounded(component, width, low, high)
        return Shape(shape.frame, shape.places, shape.embed, inner)

    def allows(self, shape: Shape, component: str, where: Place | int) -> bool:
        """Whether a width of the shape meets its floor; `where` is the stage for its channels, else the place."""
        if isinstance(where, int):
            return shape.embed[where] >= self.embed_bounds(where)[0]
        low, _ = self.bounds(component, where, shape.embed[where.stage])
        return shape.inner[component, where] >= low

    def _rounded(self, component: str, wanted: float, low: float, high: float) -> int:
        rule = self.target.rule_of(component)
        if rule.width is not None:
            return rule.width
        if self.follows(component):  # a ratio is exact; embed / heads is whole
            return max(1, min(max(round(wanted), ceil(low - 1e-9)), int(high + 1e-9)))
        if wanted <= low:
            return ceil(low - 1e-9)  # bounds are exact too: V = embed / heads is worth more than a multiple of 8
        if wanted >= high:
            return max(1, int(high + 1e-9))
        nearest = round(wanted / rule.round_to) * rule.round_to
        return max(1, min(max(nearest, ceil(low - 1e-9)), int(high + 1e-9)))
