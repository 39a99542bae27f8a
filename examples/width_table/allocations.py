"""EfficientViTs of one budget by their widths: in given proportions, and drawn at random over a wide space."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from prune_realloc import InputError
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.shapes import Shape, frame_of, places_of
from prune_realloc.recipe.target import Target

TARGET = Target(like="efficientvit_m0", img_size=32, in_chans=3, num_classes=10, stem_strides=(2, 2))
"""Images of 32 px in colour, whatever the data, so that all data sets have the same networks; M0's depth and heads."""
HEADS = 4
TOLERANCE = 0.01
"""A network costs its budget within so much."""
M0 = SIZES["efficientvit_m0"]["embed_dim"]

LEAST_EMBED, MOST_EMBED = 8, 180
GROWTHS = (1 / 3, 3.0)
"""Channels of a stage, relative to a common factor: of two stages one may be nine times as wide."""
QK, V, FFN = (4, 24), (0.5, 2.0), (0.125, 6.0)
"""Q/K width of a head, V width as a share of embed / heads, FFN width as a multiple of embed, in each stage."""


@dataclass(frozen=True)
class Allocation:
    """Widths of the stages; Q/K and V of one head."""

    embed: tuple[int, ...]
    qk: tuple[int, ...]
    v: tuple[int, ...]
    ffn: tuple[int, ...]

    @classmethod
    def of(cls, config: EfficientVitConfig) -> Allocation:
        """Of a network whose blocks are alike in each stage."""
        first = {block.stage: block for block in reversed(config.blocks)}
        blocks = [first[stage] for stage in range(len(config.depth))]
        return cls(*(tuple(getattr(block, axis) for block in blocks) for axis in ("embed", "qk", "v", "ffn")))

    @classmethod
    def read(cls, widths: Mapping[str, Sequence[int]]) -> Allocation:
        """Of a line of the table."""
        return cls(**{axis: tuple(numbers) for axis, numbers in widths.items()})

    def config(self) -> EfficientVitConfig:
        """The network; what is no width of a stage follows as in `emit`.

        Raises:
            InputError: it cannot be built.
        """
        inner = {
            (axis, place): getattr(self, axis)[place.stage]
            for place in places_of(TARGET)
            for axis in ("qk", "v", "ffn")
        }
        return Shape(frame_of(TARGET), places_of(TARGET), self.embed, inner).config()

    def widths(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def ratios(self) -> dict[str, np.ndarray]:
        """V over embed / heads, and FFN over embed, of each stage."""
        embed = np.array(self.embed)
        return {"v": np.array(self.v) * HEADS / embed, "ffn": np.array(self.ffn) / embed}


@dataclass(frozen=True)
class Proportions:
    """What a network should be at any size; a number for each stage."""

    growth: Sequence[float]
    """Channels, relative to a common factor."""
    qk: Sequence[float]
    """Width of a head; below 1, or 1, as a share of embed / heads."""
    v: Sequence[float]
    """As a share of embed / heads."""
    ffn: Sequence[float]
    """As a multiple of embed."""

    def with_channels(self, embed: Sequence[int]) -> Allocation:
        parts = [channels / HEADS for channels in embed]
        qk = [wish * part if wish <= 1 else wish for wish, part in zip(self.qk, parts, strict=True)]
        v = [ratio * part for ratio, part in zip(self.v, parts, strict=True)]
        ffn = [ratio * channels for ratio, channels in zip(self.ffn, embed, strict=True)]
        return Allocation(tuple(embed), *(tuple(max(2, round(width)) for width in widths) for widths in (qk, v, ffn)))

    def at_budget(self, budget: int) -> Allocation | None:
        """The network whose channels are nearest to these proportions; None: none within two steps meets the budget."""
        low, high = 0.01, 1000.0
        while high / low > 1.001:
            middle = (low * high) ** 0.5
            fits = self.with_channels(self._channels(middle)).config().cost.macs <= budget
            low, high = (middle, high) if fits else (low, middle)
        wanted = np.array(self.growth) * low
        around = np.array([*product(range(-2, 3), repeat=len(self.growth))]) * HEADS + self._channels(low)
        around = around[(around >= LEAST_EMBED).all(axis=1)]
        nearest = np.abs(np.log(around / wanted)).sum(axis=1).argsort(kind="stable")
        found = (self.with_channels(channels.tolist()) for channels in around[nearest])
        return next((one for one in found if abs(one.config().cost.macs - budget) <= TOLERANCE * budget), None)

    def _channels(self, factor: float) -> list[int]:
        return [max(LEAST_EMBED, HEADS * round(factor * growth / HEADS)) for growth in self.growth]


LEAST = Proportions(M0, *((low,) * len(M0) for low in (QK[0], V[0], FFN[0])))
"""Everything inside blocks as narrow as the table has it."""


def drawn(number: int, budget: int) -> Allocation:
    """The random allocation of this number: every width log-uniform within its bounds, those that miss drawn anew."""
    draw = np.random.default_rng((number, budget))
    stages = len(M0)

    def between(low: float, high: float) -> list[float]:
        return np.exp(draw.uniform(np.log(low), np.log(high), stages)).tolist()

    for _ in range(1000):
        found = Proportions(between(*GROWTHS), between(*QK), between(*V), between(*FFN)).at_budget(budget)
        if found is not None:
            return found
    raise InputError(f"budget {budget:,}: no random widths meet it; give a larger one")


def widest(quality: Callable[[Allocation], float], budget: int) -> Allocation:
    """Of the networks with every width inside blocks at its least, the one whose channels are best.

    Raises:
        InputError: none meets the budget.
    """
    every = range(LEAST_EMBED, MOST_EMBED, HEADS)

    def macs(channels: Sequence[int]) -> int:
        return LEAST.with_channels(channels).config().cost.macs

    within = []
    for before in product(every, repeat=len(M0) - 1):
        if macs((*before, LEAST_EMBED)) > budget * (1 + TOLERANCE):
            continue
        first, end = (
            bisect_left(every, budget * (1 + off), key=lambda last, before=before: macs((*before, last)))
            for off in (-TOLERANCE, TOLERANCE)
        )
        within += [LEAST.with_channels((*before, last)) for last in every[first:end]]
    if not within:
        raise InputError(f"budget {budget:,}: no channels below {MOST_EMBED} meet it; give a smaller one")
    return max(within, key=quality)
