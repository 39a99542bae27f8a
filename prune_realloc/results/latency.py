"""A latency table measured: networks that are cut to drawn widths take turns with their source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.latency import LEAST_MEASURED, Conditions, LatencyTable, Measured
from prune_realloc.core.names import MEASURE_SECONDS, Runtime
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, find_host, inner_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.pruning.sites import find_sites
from prune_realloc.pruning.sites import widths as widths_of
from prune_realloc.results.backends import BACKENDS, Run, compiler_failure_named
from prune_realloc.results.bench import device_name, package_versions, torch_threads
from prune_realloc.results.export import deployed
from prune_realloc.results.latency_draws import drawn_widths
from prune_realloc.results.page_faults import faults_note
from prune_realloc.results.turns import interleave, stopwatch_for
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import evaluation_mode, module_kinds

_TOGETHER = 7
"""So many networks take turns with the source: what fits into memory, and what torch.compile keeps apart."""
_MOST = 35
"""Networks beside the source; more would not make the fit much better."""
_ROUNDS, _SECONDS = 7, 0.4
"""Each network is timed so often, and for so long, at least."""
_NOISE = 0.02
"""Standard error of the median of a ratio of times above which a group is measured again, at most `_AGAIN` times."""
_AGAIN = 3
_WIDE = 0.1
"""Where times of one network spread more than this, the table says so."""
_FAILURES = 20
"""So many drawn networks that cannot be built, one after the other, end the measurement."""


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """Where and how networks run."""

    runtime: Runtime
    images: Tensor
    threads: int
    device: torch.device
    deadline: float
    seed: int

    def run(self, net: nn.Module) -> Run:
        """The network, ready to run: the first pass is what compiles it."""
        shape = tuple(self.images.shape[1:])
        run = BACKENDS[self.runtime](deployed(net), shape, self.threads, self.device)  # type: ignore[arg-type]
        with torch.inference_mode():
            run(self.images)
        return run

    def is_late(self) -> bool:
        return time.perf_counter() > self.deadline


@dataclass
class _Times:
    """Of the source, and of networks in relation to it."""

    source: list[float] = field(default_factory=list)
    measured: list[tuple[Widths, float, float]] = field(default_factory=list)
    """Widths, median ratio to the source, spread of the ratio."""
    notes: tuple[str, ...] = ()
    """Of the first group."""

    def table(self, whole: Widths) -> tuple[Measured, ...]:
        """All as one scale in milliseconds, the source first."""
        ms = 1e3 * float(np.median(self.source))
        low, high = np.percentile(self.source, (25, 75))
        first = Measured(widths=dict(whole), ms=ms, spread=1e3 * float(high - low) / ms)
        return (first, *(Measured(widths=w, ms=ratio * ms, spread=spread) for w, ratio, spread in self.measured))


def measure_latency(
    model: nn.Module,
    *,
    runtime: Runtime = "eager",
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = MEASURE_SECONDS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LatencyTable:
    """The time of a network as a function of its widths, float32, by timing networks that are cut from it.

    Args:
        runtime: eager, onnxruntime (on a CPU) or compiled.
        batch: images at a time.
        threads: for one operator; None: PyTorch's present number.
        device: `auto`, `cpu` or `cuda`.
        seconds: a bound, up to the network that is being built or the group that is being timed when it is reached.
        seed: chooses the widths.
        progress: called with what is done.

    Raises:
        InputError: the bound is too short, an option cannot be used, the network is not supported, or cannot be cut.
        ExportError: the network has no ONNX form.
    """
    if runtime not in BACKENDS:
        raise InputError(f"runtime {runtime!r} is unknown; choose from {', '.join(BACKENDS)}")
    for name, value, least in (("batch", batch, 1), ("threads", threads, 1), ("seconds", seconds, 0)):
        require_at_least(name, value, least)
    started, target, net = time.perf_counter(), pick_device(device), adopted(model)
    if not find_host(net).stands_alone:
        raise InputError(f"latency: {find_host(net)}: only a network without others around it is timed; give the inner")
    shape, sites, terms = input_shape(net), find_sites(net), family_of(inner_of(net)).describe(inner_of(net)).terms
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)).to(target)
    with (
        torch_threads(threads) as used,
        evaluation_mode(net, device=target),
        out_of_memory_named(batch, "lower --batch"),
    ):
        setting = _Setting(
            runtime=runtime, images=images, threads=used, device=target, deadline=started + seconds, seed=seed
        )
        times = _measured(net, drawn_widths(sites, terms, seed), setting, progress or (lambda what: None))
    taken = time.perf_counter() - started
    if len(times.measured) + 1 < LEAST_MEASURED:
        needed = taken * LEAST_MEASURED / (len(times.measured) + 1)
        raise InputError(
            f"seconds: in {seconds:g} only {len(times.measured) + 1} networks were measured, a latency table takes "
            f"{LEAST_MEASURED}; allow {max(needed, seconds + 1):.0f}"
        )
    measured = times.table(widths_of(sites))
    extra = ("onnxruntime",) if runtime == "onnxruntime" else ()
    return LatencyTable(
        conditions=Conditions(
            device=device_name(target),
            device_type=target.type,
            runtime=runtime,
            threads=used,
            batch=batch,
            versions=package_versions(*extra),
        ),
        input_shape=tuple(shape),
        terms=tuple(terms),
        modules=module_kinds(inner_of(net)),
        measured=measured,
        seconds=round(taken, 1),
        notes=(*_notes(measured), *times.notes),
    )


def _measured(net: nn.Module, draws: Iterator[Widths], setting: _Setting, progress: Callable[[str], None]) -> _Times:
    """Groups of networks in turns with the source, until there are enough or the time is over."""
    times, source = _Times(), None
    while len(times.measured) < _MOST and not (times.measured and setting.is_late()):
        with compiler_failure_named(setting.runtime):
            if source is None or setting.runtime == "compiled":  # what was compiled is gone with the group before
                source = setting.run(net)
            group: dict[str, tuple[Widths, Run]] = {}
            for widths, run in islice(_built(net, draws, setting), min(_TOGETHER, _MOST - len(times.measured))):
                group[f"{len(group)}"] = widths, run
                progress(f"{len(times.measured) + len(group)} of up to {_MOST} networks")
                if setting.is_late():
                    break
            _time(source, group, times, setting)
    return times


def _built(net: nn.Module, draws: Iterator[Widths], setting: _Setting) -> Iterator[tuple[Widths, Run]]:
    """Networks of drawn widths, ready to run; those that cannot be built are passed over."""
    failures = 0
    for widths in draws:
        try:
            cut = cut_to_widths(net, widths).eval()
        except InputError as error:
            failures += 1
            if failures == _FAILURES:
                raise InputError(
                    f"latency: none of {_FAILURES} drawn networks can be cut, the last one because {error}; "
                    "budget multiply-adds or parameters instead"
                ) from error
            continue
        failures = 0
        yield widths, setting.run(cut)


@torch.inference_mode()
def _time(source: Run, group: Mapping[str, tuple[Widths, Run]], times: _Times, setting: _Setting) -> None:
    """Rounds of the group and the source, and more of them where times are noisy."""
    runs: dict[str, Run] = {"source": source} | {name: run for name, (_, run) in group.items()}
    passes = {name: partial(run, setting.images) for name, run in runs.items()}
    every: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(1 + _AGAIN):
        found = interleave(
            passes,
            warmup=0 if number else 2,
            rounds=_ROUNDS,
            seconds=_SECONDS,
            seed=setting.seed + number,
            stopwatch=stopwatch_for(setting.device),
        )
        for name, values in found.items():
            every[name] += values
        ratios = {name: np.divide(every[name], every["source"]) for name in group}
        if max(map(_standard_error, ratios.values())) <= _NOISE or setting.is_late():
            break
    if not times.measured and setting.device.type == "cpu":
        times.notes = faults_note(passes, every)
    times.source += every["source"]
    times.measured += [(group[name][0], float(np.median(each)), _spread(each)) for name, each in ratios.items()]


def _spread(values: np.ndarray) -> float:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def _standard_error(values: np.ndarray) -> float:
    """Of the median, in relation to it, as if values were normally distributed."""
    return 0.93 * _spread(values) / len(values) ** 0.5


def _notes(measured: Sequence[Measured]) -> tuple[str, ...]:
    spread = float(np.median([one.spread for one in measured[1:]]))
    if spread <= _WIDE:
        return ()
    return (f"the machine was not quiet: times of one network spread by {spread:.0%}; measure again when it is idle",)
