"""What torch's profiler recorded of passes, added up: by class of operator, by component, by kind of call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function

from prune_realloc.results.operators import OTHER, Key, key_of, kind_of
from prune_realloc.results.regions import HEAD, REST, STEM, Regions

BETWEEN = "between operators"
"""What no operator takes: Python, calls of modules, and what the profiler itself adds there."""
PASS = "prune_realloc.pass"
_BLOCK, _REGION = "prune_realloc.block", "prune_realloc.region."


@contextmanager
def ranges(net: nn.Module, regions: Regions) -> Iterator[None]:
    """While it lasts, the profiler sees where each block and each region begins and ends."""
    labels = {name: [_BLOCK] for name in regions.blocks}
    for name, component in regions.components.items():
        labels.setdefault(name, []).append(_REGION + component)
    with ExitStack() as stack:
        for name, own in labels.items():
            module, opened = net.get_submodule(name), _Opened(own)
            stack.callback(module.register_forward_pre_hook(opened.begin).remove)
            stack.callback(module.register_forward_hook(opened.end).remove)
        yield


class _Opened:
    """The ranges of one module, which open as it is called and close as it returns."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.open: list[Any] = []

    def begin(self, *call: Any) -> None:
        for label in self.labels:
            self.open.append(record_function(label))
            self.open[-1].__enter__()

    def end(self, *call: Any) -> None:
        for _ in self.labels:
            self.open.pop().__exit__(None, None, None)


class Recorded:
    """Times of operators, in milliseconds over all passes."""

    def __init__(self, events: Sequence[Any], counted: Collection[Key], device: str) -> None:
        """Args:
        events: those of the profiler; each pass is a range `PASS`.
        counted: calls of which it is known what they compute and move.
        device: its kind, whose time is meant.
        """
        self.cells: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Component -> class of operators, or `BETWEEN` -> time."""
        self.other: dict[str, float] = defaultdict(float)
        """Operators of no class -> time."""
        self.times: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Kind of call -> component -> time, with all that the call itself calls."""
        self.calls: dict[Key, int] = defaultdict(int)
        self.passes = 0
        self._counted, self._own = counted, device == "cuda"
        for event in events:
            if event.name == PASS and event.cpu_parent is None:
                self.passes += 1
                self._add(event, _outside(event), "", within=False)

    def _add(self, event: Any, outside: Callable[[float], str], region: str, *, within: bool) -> None:
        if event.name.startswith(_REGION):
            region = event.name.removeprefix(_REGION)
        component = outside(event.time_range.start)
        component = region if region and component == REST else component
        if event.name.startswith("aten::"):
            kind = kind_of(event.name)
            self.other[event.name] += self._self(event) if kind == OTHER else 0.0
        else:
            kind = BETWEEN
        self.cells[component][kind] += self._self(event)
        key = key_of(event.name, event.input_shapes or ())
        if key in self._counted and not within:
            within = True
            self.times[key][component] += self._whole(event)
            self.calls[key] += 1
        for child in event.cpu_children:
            self._add(child, outside, region, within=within)

    def _self(self, event: Any) -> float:
        return float(event.self_device_time_total if self._own else event.self_cpu_time_total) / 1e3

    def _whole(self, event: Any) -> float:
        return float(event.device_time_total if self._own else event.cpu_time_total) / 1e3


def sums_by(cells: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Class of operators -> time in all components."""
    found: dict[str, float] = defaultdict(float)
    for kinds in cells.values():
        for kind, ms in kinds.items():
            found[kind] += ms
    return found


def _outside(whole: Any) -> Callable[[float], str]:
    """The component at a time of one pass: before its first block, after its last, or in between."""
    blocks = [event for event in _below(whole) if event.name == _BLOCK]
    first = min((event.time_range.start for event in blocks), default=float("-inf"))
    last = max((event.time_range.end for event in blocks), default=float("inf"))
    return lambda at: STEM if at < first else HEAD if at >= last else REST


def _below(event: Any) -> Iterator[Any]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)
