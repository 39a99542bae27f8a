"""An EfficientViT's widths while they are being decided: the places that share one width, and a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod, sqrt
from typing import Any

from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.recipe.target import Target

TOLERANCE = 0.01
"""The network spends at most so much less than its budget, and never more; the control differs from it by no more."""
UNIFORM_FFN = 4
"""Hidden units of a uniform network's FFN, as a multiple of its channels."""
MERGE = 4
"""Hidden channels of a patch merging, as a multiple of the channels before it, as in the paper."""


@dataclass(frozen=True)
class Place:
    """A run of blocks of the target that share their widths."""

    stage: int
    first: int
    """Number of its first block, counted through all stages."""
    blocks: int

    def name(self, component: str, per_block: bool) -> str:
        return site_name(component, self.first) if per_block else site_name(component, None, self.stage)


def base_config(target: Target) -> EfficientVitConfig:
    """`like` on the target's images; the sizes that are not set here are the paper's."""
    return EfficientVitConfig(**(SIZES[target.like] | outside_blocks(target)))


def heads_per_stage(base: EfficientVitConfig) -> list[int]:
    """Heads of each stage; the paper's sizes have one number for all its blocks."""
    return [next(block.heads for block in base.blocks if block.stage == stage) for stage in range(len(base.depth))]


def outside_blocks(target: Target) -> dict[str, Any]:
    """What lies outside the blocks: images, stem, classes."""
    size = target.img_size or 224
    pixels = sqrt(prod(size)) if isinstance(size, tuple) else size  # of the square of equal area
    strides = target.stem_strides or stem_strides(pixels)
    shorter = min(size) if isinstance(size, tuple) else size
    sides = [ceil(shorter / prod(strides) / 2**stage) for stage in range(len(SIZES[target.like]["embed_dim"]))]
    found: dict[str, Any] = {"img_size": size, "stem_strides": strides, "window_size": [*map(window, sides)]}
    found |= {"in_chans": target.in_chans} if target.in_chans is not None else {}
    return found | ({"num_classes": target.num_classes} if target.num_classes is not None else {})


def stem_strides(img_size: float) -> tuple[int, ...]:
    """So many convolutions of stride 2 that the first stage comes nearest to the paper's 14 x 14 tokens; 2 at least."""
    count = min(range(5), key=lambda n: abs(ceil(img_size / 2**n) - 14))
    return (2,) * count + (1,) * (2 - count)


def frame_of(target: Target) -> dict[str, Any]:
    """Arguments of `EfficientVitConfig` that are no widths: depth, heads, kernels, and what lies outside the blocks."""
    base = SIZES[target.like]
    return {key: base[key] for key in ("depth", "num_heads", "kernels") if key in base} | outside_blocks(target)


def places_of(target: Target) -> list[Place]:
    """The runs of blocks of a target that share their widths."""
    return runs_of_blocks(base_config(target).depth, target.per)


def runs_of_blocks(depths: Sequence[int], per: str) -> list[Place]:
    """Stages of so many blocks as runs that share their widths, or single blocks."""
    firsts = [sum(depths[:stage]) for stage in range(len(depths))]
    if per == "stage":
        return [Place(stage, first, count) for stage, (first, count) in enumerate(zip(firsts, depths, strict=True))]
    return [
        Place(stage, first + i, 1)
        for stage, (first, count) in enumerate(zip(firsts, depths, strict=True))
        for i in range(count)
    ]


def window(side: int) -> int:
    """Side of the windows on a feature map: near the paper's 7, without padding that would be attended to in vain."""
    return ceil(side / max(1, round(side / 7)))


class Shape:
    """All widths of one network that is being sized, as integers, and what they cost."""

    def __init__(
        self,
        frame: Mapping[str, Any],
        places: Sequence[Place],
        embed: Sequence[int],
        inner: Mapping[tuple[str, Place], int],
    ) -> None:
        """`frame`: arguments of `EfficientVitConfig` that are no widths."""
        self.frame, self.places, self.embed, self.inner = frame, places, tuple(embed), dict(inner)

    def args(self) -> dict[str, Any]:
        """Arguments of `EfficientVitConfig`."""
        found = dict(self.frame)
        found |= {"embed_dim": self.embed, "merge_dim": [MERGE * width for width in self.embed[:-1]]}
        for component, name in (("qk", "qk_dim"), ("v", "v_dim"), ("ffn", "ffn_dim")):
            stages: list[list[int]] = [[] for _ in self.embed]
            for place in self.places:
                stages[place.stage] += [self.inner[component, place]] * place.blocks
            found[name] = stages
        # the FFNs around a patch merging have the ratio of the stage that they belong to
        ratios = [sum(widths) / len(widths) / embed for widths, embed in zip(found["ffn_dim"], self.embed, strict=True)]
        hidden = [max(8, round(ratio * width / 8) * 8) for ratio, width in zip(ratios, self.embed, strict=True)]
        found["merge_ffn_dim"] = [list(pair) for pair in pairwise(hidden)]
        return found

    def config(self) -> EfficientVitConfig:
        return EfficientVitConfig(**self.args())

    def cost(self, kind: str) -> int:
        """What the network costs, of one kind of cost."""
        return self.config().cost.of(kind)

    def raised(self, component: str, where: Place | int, by: int) -> Shape:
        """With one width moved by `by` units; `where` is the stage for `embed`, else the place."""
        if isinstance(where, int):
            embed = [width + by * (stage == where) for stage, width in enumerate(self.embed)]
            return Shape(self.frame, self.places, embed, self.inner)
        width = self.inner[component, where] + by
        return Shape(self.frame, self.places, self.embed, self.inner | {(component, where): width})


def stage_growth(target: Target, stage: int) -> float:
    """Channels of the uniform network's stage, relative to its first."""
    if target.growth == "like":
        embed = SIZES[target.like]["embed_dim"]
        return embed[stage] / embed[0]
    return float(target.growth) ** stage


def uniform_growth(target: Target, stage: int) -> float:
    """The same of the uniform control, whose channels grow by one factor."""
    return float(2 if target.growth == "like" else target.growth) ** stage
