"""Controls of the network that `emit` makes: each has everything of it except what its name says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log

import numpy as np
from allocations import M0, Allocation, Proportions
from structured import emitted

from prune_realloc import Analysis, InputError
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.results.bench import bench

SWAPS = 19
"""Rank 1 among so many and itself is p = 0.05."""
BATCH = 64
"""Of equal latency; with few images these networks take the time of their operators, whatever their widths."""
EQUAL = ("uniform", "paper", "floors", "rule-unmeasured")
"""What the emitted network is set against at another cost than multiply-adds."""
SIZES = (0.6, 0.8, 1.0, 1.25, 1.6, 2.0)
"""Shares of the budget between which the one of equal latency is sought."""


def swaps(analysis: Analysis, budget: int) -> dict[str, Allocation]:
    """By curves of any components and stages, named by the draws that come to this network; by what was removed."""
    draws: dict[Allocation, list[str]] = {}
    for seed in range(SWAPS):
        one = emitted(analysis, {"macs": budget}, rule="swapped", seed=seed)
        draws.setdefault(one, []).append(f"{seed:02}")
    found = {f"swapped-{'-'.join(seeds)}": one for one, seeds in draws.items()}
    return found | {"inverted": emitted(analysis, {"macs": budget}, rule="inverted")}


def factorial(uniform: Allocation, own: Allocation, budget: int) -> dict[str, Allocation]:
    """The uniform network with one component as in `own`, at the same budget."""
    flat, ratios = (1.0,) * len(M0), own.ratios
    chosen = {
        "channels": Proportions(own.embed, flat, flat, (4,) * len(M0)),
        "qk": Proportions(uniform.embed, own.qk, flat, uniform.ratios["ffn"]),
        "v": Proportions(uniform.embed, flat, ratios["v"], uniform.ratios["ffn"]),
        "ffn": Proportions(uniform.embed, flat, flat, ratios["ffn"]),
    }
    return {f"only-{name}": _met(one.at_budget(budget), f"only-{name}") for name, one in chosen.items()}


def proportions(uniform: Allocation) -> dict[str, Proportions]:
    """Of those of `EQUAL` that are the same at any size."""
    flat = (1.0,) * len(M0)
    return {
        "uniform": Proportions(uniform.embed, flat, flat, uniform.ratios["ffn"]),
        "paper": Proportions(M0, (8, 8, 8), flat, (2, 2, 2)),
        "floors": Proportions(M0, (8, 8, 8), flat, flat),
    }


def of_equal_parameters(
    analysis: Analysis, uniform: Allocation, own: Allocation, budget: int
) -> Iterator[tuple[str, Allocation]]:
    """With as many parameters as `own`, of proportions the nearest in steps of 1 % of the multiply-adds."""
    wanted = own.config().cost.params
    for name, one in proportions(uniform).items():
        about = _nearest(one, wanted, budget * np.geomspace(0.25, 4, 29))
        yield f"equal-params-{name}", _nearest(one, wanted, about.config().cost.macs * np.geomspace(0.8, 1.25, 46))
    yield "equal-params-rule-unmeasured", emitted(analysis, {"params": wanted}, rule="unmeasured")


def _nearest(one: Proportions, params: int, budgets: np.ndarray) -> Allocation:
    sizes = (one.at_budget(round(budget)) for budget in budgets)
    return min(filter(None, sizes), key=lambda size: abs(log(size.config().cost.params / params)))


def of_equal_latency(
    analysis: Analysis, uniform: Allocation, own: Allocation, budget: int
) -> Iterator[tuple[str, Allocation]]:
    """That take as long as `own` here, by the times of some sizes that take turns with it.

    Raises:
        InputError: one is faster at the largest of these sizes, or slower at the smallest.
    """
    made: dict[str, Callable[[int], Allocation | None]] = {
        name: one.at_budget for name, one in proportions(uniform).items()
    }
    made["rule-unmeasured"] = lambda macs: emitted(analysis, {"macs": macs}, rule="unmeasured")
    for name, of in made.items():
        sizes = {share: _met(of(round(budget * share)), name) for share in SIZES}
        nets = {"own": own} | {str(share): one for share, one in sizes.items()}
        timed = {what: EfficientVit(one.config()) for what, one in nets.items()}
        timings = bench(timed, (3, 32, 32), batch_sizes=(BATCH,), threads=1, seconds=2.0).timings
        slower = np.maximum.accumulate([-log(one.speedup) for one in timings[1:]])
        if not slower[0] <= 0 <= slower[-1]:
            raise InputError(f"equal latency: {name} has none between {SIZES[0]} and {SIZES[-1]} of {budget:,}")
        share = float(np.exp(np.interp(0, slower, np.log(SIZES))))
        yield f"equal-latency-{name}", _met(of(round(budget * share)), name)


def _met(found: Allocation | None, what: str) -> Allocation:
    if found is None:
        raise InputError(f"budget: rounding misses it for {what}; give another")
    return found
