"""EfficientViTs of one cost that differ in how many of their layers are attention: the paper's first experiment.

A block is a sandwich of N FFNs, an attention and N FFNs, so attention is the share s = 1 / (1 + 2 N) of its layers.
The FFNs around patch mergings are the same in all and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import floor, lcm, log
from typing import Any

from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.shapes import TOLERANCE, base_config, frame_of, heads_per_stage
from prune_realloc.recipe.target import Target

_NEAR = 2
"""So many steps up and down are tried for the channels of each stage."""


def sandwich(target: Target, share: float, cost: int) -> EfficientVitConfig:
    """The network with about this share of attention layers whose cost, of the default kind, is `cost`, to 1 %.

    Blocks and FFNs follow from the share, channels from the cost, in the proportions of `like`; widths inside blocks
    are the stock class's.

    Raises:
        InputError: the share is not above 0 and at most 1, or no such network has this cost.
    """
    if not 0 < share <= 1:
        raise InputError(f"sweep-mhsa: {share:g} is no share of layers; give numbers above 0, up to 1")
    base = base_config(target)
    blocks, ffns = layers(share, base.depth)
    frame = frame_of(target) | {"depth": blocks, "num_ffns": ffns}
    found = _nearest(frame, base.embed_dim, heads_per_stage(base), cost)
    off = abs(found.cost.of(DEFAULT_KIND) - cost) / cost
    if off > TOLERANCE:
        raise InputError(
            f"sweep-mhsa: {share:g}: {found.cost.of(DEFAULT_KIND):,} multiply-adds are the nearest to {cost:,} that "
            "such a network can have; give another share, or a network of another cost"
        )
    return found


def layers(share: float, depth: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Blocks of each stage, and the FFNs on either side of the attention of each block.

    About as many layers as stages of `depth` blocks have with one FFN on either side; every stage has a block. The
    numbers of FFNs differ by one at most, their mean is as near to (1/share - 1) / 2 as whole numbers can be.
    """
    blocks = [max(1, floor(3 * share * each + 0.5)) for each in depth]
    mean = (1 / share - 1) / 2
    until = [floor(mean * count + 0.5) for count in range(sum(blocks) + 1)]
    each = iter(after - before for before, after in pairwise(until))
    return blocks, [[next(each) for _ in range(count)] for count in blocks]


def attention_share(config: EfficientVitConfig) -> float:
    """Attention among the attention and FFN layers of all blocks."""
    return len(config.blocks) / sum(1 + 2 * block.num_ffns for block in config.blocks)


def _nearest(frame: dict[str, Any], growth: Sequence[int], heads: Sequence[int], cost: int) -> EfficientVitConfig:
    """Within the tolerance that with the channels nearest to their proportions, else that of the nearest cost."""
    steps = [lcm(4, count) for count in heads]

    def off(embed: tuple[int, ...]) -> float:
        return EfficientVitConfig(**frame, embed_dim=embed).cost.of(DEFAULT_KIND) / cost - 1

    low, high = 0.0, 1.0
    while off(_channels(high, growth, steps)) <= 0:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if off(_channels(middle, growth, steps)) <= 0 else (low, middle)

    def rank(embed: tuple[int, ...]) -> tuple[float, float]:
        tilt = sum(abs(log(width / (low * each))) for width, each in zip(embed, growth, strict=True)) if low else 0.0
        return max(abs(off(embed)) - TOLERANCE, 0.0), tilt

    best = min(_around(_channels(low, growth, steps), steps), key=rank)
    return EfficientVitConfig(**frame, embed_dim=best)


def _channels(multiplier: float, growth: Sequence[int], steps: Sequence[int]) -> tuple[int, ...]:
    wanted = zip(growth, steps, strict=True)
    return tuple(max(_least(step), round(multiplier * each / step) * step) for each, step in wanted)


def _least(step: int) -> int:
    """Channels that the stem can halve three times."""
    return lcm(8, step)


def _around(embed: Sequence[int], steps: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for moved in product(range(-_NEAR, _NEAR + 1), repeat=len(embed)):
        found = tuple(width + by * step for width, by, step in zip(embed, moved, steps, strict=True))
        if all(width >= _least(step) for width, step in zip(found, steps, strict=True)):
            yield found
