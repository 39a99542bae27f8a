"""The bound that no plan beats, with the widths of the streams given: a price on cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prune_realloc.planning.parts import Block

PRICES = 64
"""Halvings of the interval in which the best price is looked for: down to the last digit of a float."""


def highest_price(blocks: Sequence[Block]) -> float:
    """A price per unit of cost that no width is worth."""
    return 1 + sum(float(part.damage.max()) for block in blocks for part in block.parts)


def relaxation(blocks: Sequence[Block]) -> Callable[[Sequence[Sequence[np.ndarray]], int], float]:
    """The function (costs, limit) -> least damage at `limit` if choices could be mixed.

    With a price on cost every part has its best choice by itself, and the least of damage + price * (cost - limit) is
    a bound at any price (Lagrange); the best one is where the spending crosses the limit.
    """
    parts = [part for block in blocks for part in block.parts]
    if not parts:
        return lambda costs, limit: 0.0
    size = max(len(part.damage) for part in parts)
    damages = np.stack([np.pad(part.damage, (0, size - len(part.damage)), constant_values=np.inf) for part in parts])
    highest = highest_price(blocks)
    gone = np.array([block.gone for block in blocks])
    starts = np.cumsum([0, *(len(block.parts) for block in blocks[:-1])])
    rows = np.arange(len(parts))

    def bound(costs: Sequence[Sequence[np.ndarray]], limit: int) -> float:
        padded = np.zeros(damages.shape)
        for row, cost in zip(padded, (cost for own in costs for cost in own), strict=True):
            row[: len(cost)] = cost
        found, low, high = 0.0, 0.0, highest
        for _ in range(PRICES):
            price = (low + high) / 2
            picks = (damages + price * padded).argmin(axis=1)
            cost = np.add.reduceat(padded[rows, picks], starts)
            worth = np.add.reduceat(damages[rows, picks], starts) + price * cost
            found = max(found, float(np.minimum(worth, gone).sum()) - price * limit)
            low, high = (price, high) if cost[worth <= gone].sum() > limit else (low, price)
        return found

    return bound
