"""Where the run time of a network goes: by class of operator, by component, and what limits each operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function

from prune_realloc.core.errors import require_at_least
from prune_realloc.core.typed import Positive
from prune_realloc.results.bench import device_name, package_versions, torch_threads
from prune_realloc.results.ceilings import Ceilings, measured_ceilings
from prune_realloc.results.operators import KINDS, Key, Work, kind_of, work_of
from prune_realloc.results.recorded import BETWEEN, PASS, Recorded, ranges, sums_by
from prune_realloc.results.regions import COMPONENTS, Regions, find_regions
from prune_realloc.results.turns import stopwatch_for
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import evaluation_mode

PROFILE_FILE = "profile.json"
_LEAST, _MOST = 3, 100
"""So many passes are profiled at least, and at most: reading what the profiler recorded takes longer than they do."""
_SLACK = 1.2
_TOO_LOW = "some operators ran above the ceilings: these were measured on a busy machine; profile again when it is idle"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """All calls of one operator on tensors of the same shapes, of one pass."""

    name: str
    kind: str
    """One of `KINDS`."""
    component: str
    """The one in which most of its time is spent."""
    shapes: tuple[tuple[int, ...], ...]
    calls: int
    ms: float
    flops: int
    """Of all calls; a multiply-add is two."""
    bytes: int
    """Read and written by all calls, each tensor once for each call."""
    bound: str
    """`memory` or `compute`, by its operations for each byte; empty where it moves nothing."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One network at one batch size; times are of one pass, in milliseconds."""

    model: str
    batch_size: int
    passes: int
    """How many were profiled; times are means over them."""
    unprofiled_ms: Positive
    """Median wall time without the profiler."""
    wall_ms: Positive
    """Mean wall time with it; the sum of `kinds`, and that of `components`, is this but for the clock's error."""
    kinds: Mapping[str, float]
    """Class of operators -> time inside them; the last is `between operators`."""
    components: Mapping[str, float]
    """Component -> its time, with what lies between its operators."""
    cells: Mapping[str, Mapping[str, float]]
    """Component -> class of operators -> time."""
    other: Mapping[str, float]
    """The operators of the class `other` by name."""
    operators: tuple[Operator, ...]
    """Longest first."""

    @property
    def memory_share(self) -> float:
        """Of the wall time: in operators that are memory-bound."""
        return sum(each.ms for each in self.operators if each.bound == "memory") / self.wall_ms

    @property
    def compute_share(self) -> float:
        """Of the wall time: in operators that are compute-bound."""
        return sum(each.ms for each in self.operators if each.bound == "compute") / self.wall_ms


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What `profile` has measured, and where."""

    passes: tuple[Pass, ...]
    """By batch size, then by model in the order in which they were given."""
    ceilings: Ceilings
    input_shape: tuple[int, int, int]
    device: str
    device_name: str
    threads: int
    versions: Mapping[str, str]
    named: tuple[str, ...] = ()
    """The networks as the command line named them; older files and Python do not say it."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """How the first one was opened beside its name: `model` and `model_args`, where the command line gave them."""

    def sentences(self) -> list[str]:
        """How much is memory-bound, and what the profiler adds: one each for every network and batch size."""
        found = [line for each in self.passes for line in _sentences(each, self.ceilings)]
        return [*found, _TOO_LOW] if self._is_above_ceiling() else found

    def _is_above_ceiling(self) -> bool:
        """Was an operator much faster than the products that the ceiling was measured by?"""
        every = (each for one in self.passes for each in one.operators if each.bound == "compute")
        return any(each.flops > _SLACK * self.ceilings.flops_per_s * each.ms / 1e3 for each in every)


def profile(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = 2.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Profile every network at every batch size; float32, random images, eager.

    Args:
        models: name -> supported network.
        input_shape: (C, H, W) of one image.
        threads: how many PyTorch uses; None: its present number.
        device: `auto`, `cpu` or `cuda`.
        seconds: of passes for each network and batch size, with the profiler, and again without.
        progress: called with what is profiled next, and how long it takes.

    Raises:
        InputError: a network is not supported, or an option cannot be used.
    """
    for name, value, least in (("threads", threads, 1), ("seconds", seconds, 0)):
        require_at_least(name, value, least)
    for batch_size in batch_sizes:
        require_at_least("batch", batch_size, 1)
    target = pick_device(device)
    regions = {name: find_regions(net) for name, net in models.items()}
    found = []
    with torch_threads(threads) as used, evaluation_mode(*models.values(), device=target):
        ceilings = measured_ceilings(target)
        for batch_size in batch_sizes:
            images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(seed)).to(target)
            for name, net in models.items():
                with out_of_memory_named(batch_size, "lower --batch"):
                    if progress is not None:
                        progress(f"{name}, batch {batch_size}: about {_foreseen(net, images, seconds):.0f} s")
                    found.append(_profiled(name, net, images, regions[name], ceilings, seconds))
    return Profile(
        passes=tuple(found),
        ceilings=ceilings,
        input_shape=input_shape,
        device=target.type,
        device_name=device_name(target),
        threads=used,
        versions=package_versions(),
    )


@torch.no_grad()
def _foreseen(net: nn.Module, images: Tensor, seconds: float) -> float:
    """Seconds that profiling will take, by one pass: one that counts, others with the profiler and without."""
    net(images)  # the first pass also chooses kernels
    one = stopwatch_for(images.device)(lambda: net(images))
    bare = max(_LEAST * one, seconds)
    return (1 + _LEAST) * one + bare + min(bare, _MOST * one)


@torch.no_grad()
def _profiled(name: str, net: nn.Module, images: Tensor, regions: Regions, ceilings: Ceilings, seconds: float) -> Pass:
    work, kind = work_of(net, images), images.device.type
    bare = _repeated(lambda: net(images), kind, seconds)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kind == "cuda" else [])]
    with ranges(net, regions):
        _repeated(lambda: net(images), kind, 0)
        with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
            walls = _repeated(lambda: net(images), kind, seconds, most=_MOST)
    recorded = Recorded(profiler.events() or [], work, kind)
    count, wall = recorded.passes, 1e3 * mean(walls)
    cells = {part: {row: ms / count for row, ms in recorded.cells[part].items()} for part in COMPONENTS}
    kinds = sums_by(cells)
    return Pass(
        model=name,
        batch_size=len(images),
        passes=count,
        unprofiled_ms=1e3 * median(bare),
        wall_ms=wall,
        kinds={row: kinds.get(row, 0.0) for row in (*KINDS, BETWEEN)},
        components={part: sum(cells[part].values()) for part in COMPONENTS},
        cells=cells,
        other={each: ms / count for each, ms in sorted(recorded.other.items(), key=lambda item: -item[1])},
        operators=tuple(sorted(_operators(recorded, work, ceilings), key=lambda each: -each.ms)),
    )


def _repeated(call: Callable[[], object], device: str, seconds: float, most: float = inf) -> list[float]:
    """Wall times of passes, of so many seconds or `_LEAST` passes; the profiler finds each under the name `PASS`."""
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < seconds and len(times) < most):
        with record_function(PASS):
            begin = time.perf_counter()  # inside: what the range itself costs is no time of the pass
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    return times


def _operators(recorded: Recorded, work: Mapping[Key, Work], ceilings: Ceilings) -> Iterator[Operator]:
    for key, times in recorded.times.items():
        name, shapes = key
        calls, each = round(recorded.calls[key] / recorded.passes), work[key]
        yield Operator(
            name=name,
            kind=kind_of(name),
            component=max(times, key=lambda component: times[component]),
            shapes=shapes,
            calls=calls,
            ms=sum(times.values()) / recorded.passes,
            flops=calls * each.flops,
            bytes=calls * each.bytes,
            bound=ceilings.bound(each.flops, each.bytes),
        )


def _sentences(each: Pass, ceilings: Ceilings) -> Iterator[str]:
    where = f"{each.model}, batch {each.batch_size}"
    yield (
        f"{where}: {each.memory_share:.0%} of the time is in memory-bound operators, {each.compute_share:.0%} in "
        f"compute-bound ones; the memory limits below {ceilings.ridge:.1f} operations for each byte"
    )
    yield (
        f"{where}: {each.wall_ms:.2f} ms with the profiler, {each.unprofiled_ms:.2f} ms without; the rows add up to "
        f"{sum(each.kinds.values()) / each.wall_ms:.1%} of the former"
    )
