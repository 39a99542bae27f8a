"""The bound that no plan beats, with the widths of the streams given: a price on cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prune_realloc.planning.parts import Block

PRICES = 64
"""So many are tried at most; halving an interval so often comes down to the last digit of a float."""
_SAME = 1 - 1e-12


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

        def cheapest(price: float) -> tuple[float, float]:
            """Damage and cost of what is cheapest at the price."""
            picks = (damages + price * padded).argmin(axis=1)
            cost = np.add.reduceat(padded[rows, picks], starts)
            damage = np.add.reduceat(damages[rows, picks], starts)
            stays = damage + price * cost <= gone
            return float(np.where(stays, damage, gone).sum()), float(cost[stays].sum())

        dear, cheap = cheapest(0.0), cheapest(highest)
        best = dear[0]
        # each network is a line over the price, and the bound runs along the lowest of them: go where two lines cross,
        # until none is below
        for _ in range(PRICES):
            if dear[1] <= max(limit, cheap[1]):
                break
            price = (cheap[0] - dear[0]) / (dear[1] - cheap[1])
            found = cheapest(price)
            worth = found[0] + price * (found[1] - limit)
            best = max(best, worth)
            if worth >= _SAME * (dear[0] + price * (dear[1] - limit)):
                break
            dear, cheap = (found, cheap) if found[1] > limit else (dear, found)
        return best

    return bound
