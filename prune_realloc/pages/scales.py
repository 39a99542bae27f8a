"""From values to places on a drawing: scales, the marks on an axis, and lines of no more points than can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10
from statistics import fmean

from prune_realloc.pages.content import Axis

_MOST = 200
"""So many points of a line can be told apart."""
_MARKS = 6


class Scale:
    """Values of an axis -> places between two ends."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        """Args:
        values: all that are drawn, at least one.
        start, end: places of the lowest and the highest of them.
        """
        self.log, self.whole, self.start, self.end = axis.log, axis.whole, start, end
        low = min(values) if axis.low is None else axis.low
        high = max(values) if axis.high is None else axis.high
        if self.log:
            low, high = 10.0 ** floor(log10(low)), 10.0 ** ceil(log10(high))
        if low == high:
            low, high = (low / 10, high * 10) if self.log else (low - 0.5, high + 0.5)
        elif not self.log:
            margin = 0.06 * (high - low)
            low, high = low - margin * (axis.low is None), high + margin * (axis.high is None)
        self.low, self.high = low, high

    def place(self, value: float) -> float:
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def marks(self) -> list[float]:
        """Round values from one end to the other."""
        if self.log:
            first, last = round(log10(self.low)), round(log10(self.high))
            step = ceil((last - first) / _MARKS)
            return [10.0**power for power in range(first, last + 1, step)]
        rough = max((self.high - self.low) / _MARKS, 1.0 if self.whole else 0.0)
        size = 10.0 ** floor(log10(rough))
        round_step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
        return [round_step * k for k in range(ceil(self.low / round_step), floor(self.high / round_step) + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a line, or means of equally many neighbours where they are too many to be seen."""
    each = ceil(len(points) / _MOST)
    if each <= 1:
        return list(points)
    runs = [points[at : at + each] for at in range(0, len(points), each)]
    return [(fmean(x for x, _ in run), fmean(y for _, y in run)) for run in runs]


def drawable(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those that are no numbers."""
    return [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
