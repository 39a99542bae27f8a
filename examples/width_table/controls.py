"""Controls of the network that `emit` makes: each has everything of it except what its name says.

    export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000
    python examples/width_table/controls.py runs/width_table/analysis-fashion

measures which networks take as long as the emitted one, with freed memory kept (docs/benchmarks.md, "What page faults
cost"), and writes their widths to equal_latency_2M.json, of which `table.py` trains them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from math import log
from pathlib import Path

import numpy as np
import torch
from allocations import M0, Allocation, Proportions
from structured import emitted, structured

from prune_realloc import Analysis, InputError
from prune_realloc.core.files import write_file
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.results.bench import bench
from prune_realloc.results.page_faults import KEEP

SWAPS = 19
"""Rank 1 among so many and itself is p = 0.05."""
BATCH = 64
"""Of equal latency; with few images these networks take the time of their operators, whatever their widths."""
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
    """Of the rules that are the same at any size."""
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
        slower = np.maximum.accumulate(_slower(own, sizes.values()))
        if not slower[0] <= 0 <= slower[-1]:
            raise InputError(f"equal latency: {name} has none between {SIZES[0]} and {SIZES[-1]} of {budget:,}")
        share = float(np.exp(np.interp(0, slower, np.log(SIZES))))
        yield f"equal-latency-{name}", _met(of(round(budget * share)), name)


def _slower(own: Allocation, others: Iterable[Allocation]) -> list[float]:
    """Logarithm of the time of each over that of `own`."""
    nets = {str(i): EfficientVit(one.config()) for i, one in enumerate((own, *others))}
    timings = bench(nets, (3, 32, 32), batch_sizes=(BATCH,), threads=1, seconds=2.0).timings
    return [-log(one.speedup) for one in timings[1:]]


def _met(found: Allocation | None, what: str) -> Allocation:
    if found is None:
        raise InputError(f"budget: rounding misses it for {what}; give another")
    return found


def equal_latency_file(budget: int) -> Path:
    return Path(__file__).parent / f"equal_latency_{budget / 1e6:g}M.json"


def read_equal_latency(budget: int) -> dict[str, Allocation]:
    """What was measured; none at a budget at which nothing was."""
    path = equal_latency_file(budget)
    written = json.loads(path.read_text())["widths"] if path.exists() else {}
    return {name: Allocation.read(widths) for name, widths in written.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analysis", type=Path)
    parser.add_argument("--budget", type=int, default=2_000_000, help="multiply-adds of the emitted network")
    args = parser.parse_args(argv)
    try:
        analysis = Analysis.load(args.analysis)
        named = structured(args.budget, {"own": analysis})
        own = named["rule-stream-own"]
        found = dict(of_equal_latency(analysis, named["uniform"], own, args.budget))
        written = {
            "beside": own.widths(),
            "slower": dict(zip(found, np.exp(_slower(own, found.values())).round(3).tolist(), strict=True)),
            "widths": {name: one.widths() for name, one in found.items()},
            "how": f"medians in turns, batches of {BATCH}, 1 thread, eager, torch {torch.__version__}",
            "environment": {name: os.environ.get(name, "") for name in KEEP},
            "machine": platform.machine(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_file(equal_latency_file(args.budget), (json.dumps(written, indent=1) + "\n").encode())
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
