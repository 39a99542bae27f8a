"""Runs that differ in their seed only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    """Of the last network, by seed."""
    macs: int
    """Multiply-adds for one image, by torch's counter."""
    params: int
    mean: float
    half_width: float | None
    """Of the 95 % interval of the mean; None with one seed."""
    control: str | None
    """Name of the group that it is compared with; None for a control."""
    difference: float | None
    """To the control, mean over the seeds that both have."""
    difference_half_width: float | None
    differs: str | None
    """The first setting, or part of the data, in which it was trained otherwise than its control."""
    folder: str
    """Of its first run."""
    latency_ms: float | None = None
    """Median for one image, of the deploy form on the CPU."""
