"""Runs that differ in their seed only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    """The runs' folders' name, without the seed."""
    seeds: tuple[int, ...]
    """One for each run, ascending."""
    top1: tuple[float, ...]
    """Share of the validation images that each run's last network gets right, in the order of the seeds."""
    macs: int
    """Multiply-adds for one image, by torch's counter."""
    params: int
    """Parameters of the network."""
    mean: float
    """Mean of `top1`."""
    half_width: float | None
    """Half the width of the 95 % interval of the mean; None with one seed."""
    control: str | None
    """Name of the group that it is compared with; None for a control."""
    difference: float | None
    """Top-1 minus the control's, mean over the seeds that both have; None where there are none."""
    difference_half_width: float | None
    """Half the width of the 95 % interval of the difference; None with fewer than two seeds in common."""
    differs: str | None
    """The first setting, or part of the data, in which it was trained otherwise than its control; None: in nothing."""
    data: str
    """Name of the data set of its runs."""
    folder: str
    """Folder of its first run."""
    guesses: tuple[int, ...] = ()
    """Of the seeds, those whose network is no better than guessing, as far as runs say how many classes there are."""
    latency_ms: float | None = None
    """Median time for one image, of the deploy form on the CPU; None: not measured."""


def group_notes(groups: Sequence[Group]) -> tuple[str, ...]:
    """Why a difference is missing, says nothing, or is not the networks' alone."""
    untaught = tuple(
        f"{g.name}: no better than guessing with seed {', '.join(map(str, g.guesses))}, so a difference to it tells "
        "nothing of widths"
        for g in groups
        if g.guesses
    )
    unpaired = tuple(
        f"{g.name} and {g.control} have no seed in common, so there is no difference"
        for g in groups
        if g.control is not None and g.difference is None
    )
    unlike = tuple(
        f"{g.name} and {g.control} were trained otherwise ({g.differs}), so their difference is not the networks' alone"
        for g in groups
        if g.differs is not None
    )
    return untaught + unpaired + unlike


ACCURACY_COLUMNS = ("", "seeds", "top-1 %", "95 %", "to the control, points", "95 %")
"""The headings of `accuracy_cells`."""


class _Compared(Protocol):
    """What the rows of both tables of comparisons say."""

    @property
    def name(self) -> str: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def mean(self) -> float: ...
    @property
    def half_width(self) -> float | None: ...
    @property
    def difference(self) -> float | None: ...
    @property
    def difference_half_width(self) -> float | None: ...


def accuracy_cells(found: _Compared) -> tuple[str, ...]:
    """Name, seeds, mean and interval, difference and interval, of one row of either table."""
    return (
        found.name,
        str(len(found.seeds)),
        f"{100 * found.mean:.2f}",
        _half_width(found.half_width),
        "" if found.difference is None else f"{100 * found.difference:+.2f}",
        _half_width(found.difference_half_width),
    )


def _half_width(width: float | None) -> str:
    """Half an interval of shares, in points."""
    return "" if width is None else f"+-{100 * width:.2f}"
