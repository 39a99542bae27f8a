"""Latency and throughput of several networks, and whether one is faster than the first."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.files import json_file
from prune_realloc.core.intervals import median_interval
from prune_realloc.results.backends import BACKENDS, compiler_failure_named
from prune_realloc.results.page_faults import faults_note
from prune_realloc.results.turns import interleave, stopwatch_for
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import evaluation_mode

BENCH_FILE = "bench.json"
_COLUMNS = ("backend", "batch", "model", "median ms", "iqr ms", "min ms", "images/s")
_COMPARED = ("speed-up", "95 %")
MAX_COMPILED = 8
"""Networks at once: torch.compile falls back to eager beyond its limit of versions of one forward function."""
_WIDE = 0.15
"""Interquartile range of the times, as a share of their median, above which they are said to vary."""
MARGIN = 0.05
"""Two copies of one network came out up to 4 % apart, for where their weights lie in memory; less is no finding."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One network on one backend at one batch size."""

    model: str
    backend: str
    batch_size: int
    rounds: int
    """How many times a batch was timed."""
    median_ms: float
    """Median time of one batch."""
    iqr_ms: float
    """Interquartile range of the times of one batch."""
    min_ms: float
    """Shortest time of one batch."""
    images_per_second: float
    """Throughput at the median time."""
    speedup: float
    """Median over the rounds of the reference's time / this one's in the same round; above 1 is faster."""
    speedup_interval: tuple[float, float]
    """95 % interval of the speedup, as if rounds were independent."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `bench` has measured, and under which conditions."""

    timings: tuple[Timing, ...]
    """By backend, batch size and model, in the order in which they were asked for."""
    reference: str
    """The first model: every speedup is relative to it."""
    input_shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    device: str
    """Its kind: `cpu` or `cuda`."""
    device_name: str
    """What the processor or the graphics card calls itself."""
    threads: int
    """Threads that PyTorch and ONNX Runtime used for one operator."""
    seed: int
    """Seed of the images and of the order in which networks take turns."""
    versions: Mapping[str, str]
    """Package -> its version."""
    notes: tuple[str, ...] = ()
    """What must be known of the times."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Model -> the file, folder or name that it was opened from, where that is known."""

    def columns(self) -> tuple[str, ...]:
        """Of `rows`."""
        return _COLUMNS + _COMPARED if self._compares() else _COLUMNS

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each network, backend and batch size."""
        return [self._row(timing) for timing in self.timings]

    def file(self) -> bytes:
        """The content of `BENCH_FILE`."""
        return json_file(asdict(self))

    def _compares(self) -> bool:
        return any(timing.model != self.reference for timing in self.timings)

    def _row(self, timing: Timing) -> tuple[str, ...]:
        low, high = timing.speedup_interval
        ratio = ("", "") if timing.model == self.reference else (f"{timing.speedup:.2f}", f"{low:.2f}-{high:.2f}")
        return (
            timing.backend,
            str(timing.batch_size),
            timing.model,
            f"{timing.median_ms:.2f}",
            f"{timing.iqr_ms:.2f}",
            f"{timing.min_ms:.2f}",
            f"{timing.images_per_second:.1f}",
            *(ratio if self._compares() else ()),
        )

    def verdicts(self) -> tuple[str, ...]:
        """One line per network, backend and batch size: is it faster than the reference?"""
        return tuple(self._verdict(t) for t in self.timings if t.model != self.reference)

    def _verdict(self, timing: Timing) -> str:
        low, high = timing.speedup_interval
        where = f"{timing.backend}, batch {timing.batch_size}: {timing.model}"
        ratio = f"{timing.speedup:.2f} times its speed, {low:.2f} to {high:.2f}"
        if low > 1 + MARGIN:
            return f"{where} is faster than {self.reference} ({ratio})"
        if high < 1 - MARGIN:
            return f"{where} is NOT faster than {self.reference}, it is slower ({ratio})"
        return f"{where} is NOT measurably faster than {self.reference} ({ratio})"


def bench(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    backends: Sequence[str] = ("eager",),
    threads: int | None = None,
    device: str = "cpu",
    warmup: int = 3,
    rounds: int = 10,
    seconds: float = 3.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Bench:
    """Time every network on every backend and batch size; float32, random images.

    Args:
        models: name -> network; all are timed in turns, the first is the reference.
        input_shape: (C, H, W) of one image.
        backends: any of `BACKENDS`: eager, compiled (`torch.compile`), onnxruntime.
        threads: how many PyTorch and ONNX Runtime use; None: PyTorch's present number.
        device: `auto`, `cpu` or `cuda`.
        warmup: rounds that are not counted.
        rounds: at least so many are counted.
        seconds: for each network and batch size; rounds are added until they are spent.
        progress: called with what is measured next.

    Raises:
        InputError: an option cannot be used, or a backend does not work here.
        ExportError: a network has no ONNX form.
    """
    _check(models, batch_sizes, backends, threads, warmup, rounds, seconds)
    target = pick_device(device)
    timed = partial(
        interleave, warmup=warmup, rounds=rounds, seconds=seconds, seed=seed, stopwatch=stopwatch_for(target)
    )
    timings: list[Timing] = []
    notes: list[str] = []
    with torch_threads(threads) as used, evaluation_mode(*models.values(), device=target):
        for backend in backends:
            runs = {name: BACKENDS[backend](net, input_shape, used, target) for name, net in models.items()}
            for batch_size in batch_sizes:
                if progress is not None:
                    progress(f"{backend}, batch {batch_size}")
                images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(seed)).to(target)
                calls = {name: partial(run, images) for name, run in runs.items()}
                with out_of_memory_named(batch_size), compiler_failure_named(backend), torch.inference_mode():
                    times = timed(calls)
                    found = timings_of(times, backend, batch_size)
                    timings, notes = timings + found, notes + spread_notes(found)
                    if target.type == "cpu":
                        notes += [f"{backend}, batch {batch_size}: {note}" for note in faults_note(calls, times)]
    return Bench(
        timings=tuple(timings),
        reference=next(iter(models)),
        input_shape=input_shape,
        device=target.type,
        device_name=device_name(target),
        threads=used,
        seed=seed,
        versions=package_versions(*({"onnxruntime"} & {*backends})),
        notes=tuple(notes),
    )


def timings_of(times: Mapping[str, Sequence[float]], backend: str, batch_size: int) -> list[Timing]:
    """Summary of what `interleave` returned; the first name is the reference."""
    reference = np.asarray(next(iter(times.values())))
    found = []
    for name, values in times.items():
        seconds = np.asarray(values)
        low, median, high = np.percentile(seconds, (25, 50, 75))
        ratios = reference / seconds
        found.append(
            Timing(
                model=name,
                backend=backend,
                batch_size=batch_size,
                rounds=len(seconds),
                median_ms=1e3 * float(median),
                iqr_ms=1e3 * float(high - low),
                min_ms=1e3 * float(seconds.min()),
                images_per_second=batch_size / float(median),
                speedup=float(np.median(ratios)),
                speedup_interval=median_interval(ratios),
            )
        )
    return found


def spread_notes(timings: Sequence[Timing]) -> list[str]:
    """What to say of times that vary much: of one network after the other, the widest."""
    widest = max(timings, key=lambda timing: timing.iqr_ms / timing.median_ms)
    if widest.iqr_ms <= _WIDE * widest.median_ms:
        return []
    return [
        f"{widest.backend}, batch {widest.batch_size}: times of {widest.model} vary, the middle half of them by "
        f"{widest.iqr_ms / widest.median_ms:.0%} of their median: the machine has other work or changes its speed; "
        "ratios of networks that take turns hold better than times, and more seconds make them narrower"
    ]


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Inside the block PyTorch uses `count` threads (None: as before); yields the number. Put back afterwards."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def package_versions(*more: str) -> dict[str, str]:
    """Of what every measurement depends on, and `more` packages."""
    packages = ("prune-realloc", "torch", "timm", *more)
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def device_name(device: torch.device) -> str:
    """What the processor or the graphics card calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _check(
    models: Mapping[str, nn.Module],
    batch_sizes: Sequence[int],
    backends: Sequence[str],
    threads: int | None,
    warmup: int,
    rounds: int,
    seconds: float,
) -> None:
    for kind, values in (("models", models), ("batch_sizes", batch_sizes), ("backends", backends)):
        if not values:
            raise InputError(f"{kind} is empty; name at least one")
    for backend in backends:
        if backend not in BACKENDS:
            raise InputError(f"backend {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    if "compiled" in backends and len(models) > MAX_COMPILED:
        raise InputError(f"backend 'compiled' measures up to {MAX_COMPILED} models at once, got {len(models)}")
    for batch_size in batch_sizes:
        require_at_least("batch_size", batch_size, 1)
    for name, value, least in (
        ("threads", threads, 1),
        ("warmup", warmup, 0),
        ("rounds", rounds, 1),
        ("seconds", seconds, 0),
    ):
        require_at_least(name, value, least)
