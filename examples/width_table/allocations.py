"""EfficientViTs of one budget by their widths: drawn at random over a wide space, and by rules that people use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from prune_realloc import Analysis, InputError, emit
from prune_realloc.core.cost import Cost
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.control import uniform_control
from prune_realloc.planning.shapes import Shape, places_of
from prune_realloc.recipe.target import Target

TARGET = Target(like="efficientvit_m0", img_size=32, in_chans=3, num_classes=10, stem_strides=(2, 2))
"""Images of 32 px in colour, whatever the data, so that all data sets have the same networks; M0's depth and heads."""
HEADS = 4
TOLERANCE = 0.01
"""A network costs its budget within so much."""
M0 = SIZES["efficientvit_m0"]["embed_dim"]

LEAST_EMBED = 8
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
        return Shape(TARGET, places_of(TARGET), self.embed, inner).config()

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


def structured(budget: int, analyses: Mapping[str, Analysis]) -> dict[str, Allocation]:
    """By name: uniform, the paper's rules, the former floors alone, NViT's rule, and what `emit` makes of analyses.

    NViT's rule (Yang et al., CVPR 2023) is for blocks of equal channels; carried over, the first and the last stage are
    its two ends, with half of the Q/K width of the middle and FFN ratio 3 in place of 6. Its fewer heads are left out.
    """
    rules = {
        "paper": Proportions(M0, (8, 8, 8), (1, 1, 1), (2, 2, 2)).at_budget(budget),
        "floors": Proportions(M0, (8, 8, 8), (1, 1, 1), (1, 1, 1)).at_budget(budget),
        "nvit": Proportions(M0, (0.5, 1, 0.5), (1, 1, 1), (3, 6, 3)).at_budget(budget),
    }
    if missed := [name for name, found in rules.items() if found is None]:
        raise InputError(f"budget {budget:,}: rounding misses it for {', '.join(missed)}; give another")
    found = {"uniform": Allocation.of(uniform_control(TARGET, Cost(macs=budget, params=0), "macs"))}
    found |= {name: allocation for name, allocation in rules.items() if allocation is not None}
    for name, analysis in analyses.items():
        wanted = TARGET.model_dump(exclude_unset=True) | {"macs": budget}
        variant = emit(analysis, target=wanted, timed=False)[0]
        found[f"reallocated-{name}"] = Allocation.of(variant.configs()["realloc"])
    return found
