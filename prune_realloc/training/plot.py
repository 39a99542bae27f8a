"""Accuracy over cost of compared runs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from prune_realloc.core.errors import InputError
from prune_realloc.core.files import write_file
from prune_realloc.training.group import Group


def write_plot(groups: Sequence[Group], path: Path) -> None:
    """Accuracy over multiply-adds, parameters and, where it was measured, latency, and differences to the control.

    Dashes are single seeds, bars Student's 95 % intervals of the mean.

    Raises:
        InputError: the name's ending is no format of pictures.
    """
    kind = path.suffix.removeprefix(".") or "png"
    costs: list[tuple[str, str, float]] = [("macs", "MACs, millions", 1e6), ("params", "parameters, millions", 1e6)]
    if any(group.latency_ms is not None for group in groups):
        costs.append(("latency_ms", "ms for one image", 1.0))
    compared = [group for group in groups if group.difference is not None]
    panels = len(costs) + bool(compared)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"plot {str(path)!r}: {kind} is no format of pictures; choose .png, .svg or .pdf")
    axes = figure.subplots(1, panels)
    colours = {group.name: f"C{index % 10}" for index, group in enumerate(groups)}
    for axis, (field, label, unit) in zip(axes, costs, strict=False):
        for group in groups:
            if (cost := getattr(group, field)) is None:
                continue
            axis.errorbar(
                cost / unit,
                100 * group.mean,
                100 * (group.half_width or 0),
                fmt="o",
                capsize=3,
                label=group.name,
                color=colours[group.name],
            )
            axis.plot(
                [cost / unit] * len(group.top1),
                [100 * top1 for top1 in group.top1],
                "_",
                markersize=10,
                color=colours[group.name],
            )
        axis.set_xlabel(label)
        spread = [getattr(group, field) for group in groups if getattr(group, field) is not None]
        if max(spread) > 20 * min(spread):
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, 1.1 * axis.dataLim.x1)
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 100))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    axes[0].legend(fontsize=8)
    figure.suptitle("dots and bars: mean over seeds and its 95 % interval; dashes: single seeds", fontsize=9)
    if compared:
        _draw_differences(axes[-1], compared, colours)
    buffer = io.BytesIO()
    # without the program's version, and in SVG the date, which would make other bytes every time
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    write_file(path, buffer.getvalue())


def _draw_differences(axis: Any, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    for place, group in enumerate(reversed(groups)):
        axis.errorbar(
            100 * (group.difference or 0),
            place,
            xerr=100 * (group.difference_half_width or 0),
            fmt="o",
            capsize=3,
            color=colours[group.name],
        )
    axis.set_yticks(range(len(groups)), [group.name for group in reversed(groups)])
    axis.set_ylim(-0.5, len(groups) - 0.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("to the control, points (paired by seed)")
    axis.grid(alpha=0.3, axis="x")
