"""What a device can do at most, measured: operations a second in a matrix product, bytes a second in a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from prune_realloc.core.typed import Positive
from prune_realloc.results.turns import stopwatch_for

_SIDE = 1024
_COPIED = 2**24
"""Numbers that are copied: 64 MB, more than caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """The two roofs of a roofline."""

    flops_per_s: Positive
    """Best of several products of two matrices of float32, 1,024 by 1,024; a multiply-add is two."""
    bytes_per_s: Positive
    """Best of several copies of 64 MB, read and written."""

    @property
    def ridge(self) -> float:
        """Operations for each byte from which on it is no longer the memory that limits."""
        return self.flops_per_s / self.bytes_per_s

    def bound(self, flops: int, moved: int) -> str:
        """`memory` or `compute`; empty for what moves nothing, such as a view."""
        if not moved:
            return ""
        return "compute" if flops / moved >= self.ridge else "memory"


@torch.inference_mode()
def measured_ceilings(device: torch.device, seconds: float = 0.4) -> Ceilings:
    """Of `device` with the threads that PyTorch now uses.

    Args:
        seconds: for each of the two.
    """
    a, b = (torch.randn(_SIDE, _SIDE, device=device) for _ in range(2))
    source, target = torch.randn(_COPIED, device=device), torch.empty(_COPIED, device=device)
    product = _best(lambda: torch.mm(a, b), device, seconds)
    copied = _best(lambda: target.copy_(source), device, seconds)
    return Ceilings(2 * _SIDE**3 / product, 2 * source.numel() * source.element_size() / copied)


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    stopwatch, start = stopwatch_for(device), time.perf_counter()
    stopwatch(call)
    times = [stopwatch(call) for _ in range(3)]
    while time.perf_counter() - start < seconds:
        times.append(stopwatch(call))
    return min(times)
