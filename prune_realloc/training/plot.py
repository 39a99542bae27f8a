"""Accuracy over cost of compared runs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prune_realloc.core.errors import InputError
from prune_realloc.core.files import write_file
from prune_realloc.training.group import Group

_Cost = tuple[str, str, float]
"""A field of `Group`, its label, and the unit that the label names."""


def write_plot(groups: Sequence[Group], path: Path) -> None:
    """Accuracy over multiply-adds, parameters and, where it was measured, latency, and differences to the control.

    Dashes are single seeds, bars Student's 95 % intervals of the mean.

    Raises:
        InputError: the name's ending is no format of pictures.
    """
    kind = path.suffix.removeprefix(".") or "png"
    costs: list[_Cost] = [("macs", "MACs, millions", 1e6), ("params", "parameters, millions", 1e6)]
    if any(group.latency_ms is not None for group in groups):
        costs.append(("latency_ms", "ms for one image", 1.0))
    compared = [group for group in groups if group.difference is not None]
    panels = len(costs) + bool(compared)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"plot {str(path)!r}: {kind} is no format of pictures; choose .png, .svg or .pdf")
    axes = figure.subplots(1, panels)
    colours = {group.name: f"C{index % 10}" for index, group in enumerate(groups)}
    for axis, cost in zip(axes, costs, strict=False):
        _draw_accuracy(axis, groups, cost, colours)
    axes[0].set_ylabel("top-1, %")
    axes[0].legend(fontsize=8)
    figure.suptitle("dots and bars: mean over seeds and its 95 % interval; dashes: single seeds", fontsize=9)
    if compared:
        _draw_differences(axes[-1], compared, colours)
    write_file(path, _picture(figure, kind))


def _draw_accuracy(axis: Axes, groups: Sequence[Group], cost: _Cost, colours: Mapping[str, str]) -> None:
    """Top-1 of the groups over one cost, from zero or, where costs are far apart, on a logarithmic scale."""
    field, label, unit = cost
    known = [(group, getattr(group, field)) for group in groups if getattr(group, field) is not None]
    for group, value in known:
        axis.errorbar(
            value / unit,
            100 * group.mean,
            100 * (group.half_width or 0),
            fmt="o",
            capsize=3,
            label=_literal(group.name),
            color=colours[group.name],
        )
        axis.plot(
            [value / unit] * len(group.top1),
            [100 * top1 for top1 in group.top1],
            "_",
            markersize=10,
            color=colours[group.name],
        )
    axis.set_xlabel(label)
    spread = [value for _, value in known]
    if max(spread) > 20 * min(spread):
        axis.set_xscale("log")
    else:
        axis.set_xlim(0, 1.1 * axis.dataLim.x1)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 0), min(high, 100))
    axis.grid(alpha=0.3)


def _draw_differences(axis: Axes, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    """Differences of the groups to their controls, the first group on top."""
    for place, group in enumerate(reversed(groups)):
        axis.errorbar(
            100 * (group.difference or 0),
            place,
            xerr=100 * (group.difference_half_width or 0),
            fmt="o",
            capsize=3,
            color=colours[group.name],
        )
    axis.set_yticks(range(len(groups)), [_literal(group.name) for group in reversed(groups)])
    axis.set_ylim(-0.5, len(groups) - 0.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("to the control, points (paired by seed)")
    axis.grid(alpha=0.3, axis="x")


def _picture(figure: Figure, kind: str) -> bytes:
    """The same bytes every time: without the program's version, and in SVG and PDF the date."""
    buffer = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _literal(text: str) -> str:
    """A name as matplotlib shows it letter by letter: dollars are no formula, and an underscore hides no label."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
