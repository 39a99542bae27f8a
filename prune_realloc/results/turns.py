"""Several calls timed in turns, in shuffled order, so that a machine that becomes slower hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]
Stopwatch = Callable[[Call], float]
"""Makes the call and returns how many seconds it took."""


def wall_seconds(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    """For work that is done when the call returns."""
    begin = clock()
    call()
    return clock() - begin


def cuda_seconds(call: Call) -> float:
    """For work that the call hands to the GPU, from before its first kernel to after its last, on the GPU's clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def stopwatch_for(device: torch.device) -> Stopwatch:
    """What times a pass on `device`."""
    return cuda_seconds if device.type == "cuda" else wall_seconds


# torch.utils.benchmark times one statement at a time, all its runs in a row: it cannot let networks take turns
def interleave(
    calls: Mapping[str, Call],
    *,
    warmup: int,
    rounds: int,
    seconds: float,
    seed: int = 0,
    stopwatch: Stopwatch = wall_seconds,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call, by name and round; one round calls each once, in an order drawn for the round.

    In a fixed order the first of a round looked slower by several percent on a busy machine.

    Args:
        warmup: rounds that are not counted.
        rounds: at least so many are counted.
        seconds: for each call; rounds are added until the time of all of them is spent.
        stopwatch: times one call.
        clock: tells when the time is spent.
    """
    order, draw = list(calls), random.Random(seed)
    for _ in range(warmup):
        for call in calls.values():
            stopwatch(call)  # waits for a GPU, so that what is counted first does not find it busy
    times: dict[str, list[float]] = {name: [] for name in calls}
    start, done = clock(), 0
    while done < rounds or clock() - start < seconds * len(calls):
        draw.shuffle(order)
        for name in order:
            times[name].append(stopwatch(calls[name]))
        done += 1
    return times
