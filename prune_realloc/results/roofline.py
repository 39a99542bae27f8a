"""The picture and the page of a profile."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from prune_realloc.results.figures import as_png
from prune_realloc.results.operators import ELEMENTWISE, FUSED, MATRIX, MOVES, NORM, OTHER, SOFTMAX
from prune_realloc.results.profile import Operator, Pass, Profile
from prune_realloc.results.rendering import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOK = {
    MATRIX: ("#0b6e99", "o"),
    FUSED: ("#c2410c", "s"),
    SOFTMAX: ("#be185d", "v"),
    NORM: ("#6d28d9", "D"),
    ELEMENTWISE: ("#4d7c0f", "^"),
    MOVES: ("#57534e", "X"),
    OTHER: ("#a16207", "P"),
}
_FLOOR = 1e-2
"""Operations for each byte at which what computes nothing is drawn."""
_LISTED = 25
"""So many operators the page lists for each network and batch size."""


def profile_files(found: Profile) -> dict[str, bytes]:
    """The numbers, the picture and the page, by the names of their files."""
    picture = roofline_figure(found)
    page = render(
        "profile.html.jinja",
        name=", ".join(dict.fromkeys(each.model for each in found.passes)),
        found=found,
        sentences=found.sentences(),
        picture=base64.b64encode(picture).decode(),
        listed=_LISTED,
    )
    numbers = asdict(found) | {"sentences": found.sentences()}
    return {"profile.json": (json.dumps(numbers, indent=1) + "\n").encode(), "roofline.png": picture} | {
        "profile.html": page.encode(errors="backslashreplace")
    }


def roofline_figure(found: Profile) -> bytes:
    """Operations for each byte on x, operations a second on y, both logarithmic; a panel for each pass."""
    from matplotlib.figure import Figure

    columns = min(2, len(found.passes))
    rows = -(-len(found.passes) // columns)
    figure = Figure(figsize=(5.6 * columns, 4.3 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, each in zip(panels, found.passes, strict=False):
        _draw(panel, each, found)
    for empty in panels[len(found.passes) :]:
        empty.set_axis_off()
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return as_png(figure)


def _draw(panel: Axes, each: Pass, found: Profile) -> None:
    roof = found.ceilings
    moving = [operator for operator in each.operators if operator.bytes and operator.ms > 0]
    for kind, (colour, marker) in _LOOK.items():
        own = [operator for operator in moving if operator.kind == kind]
        if own:
            panel.scatter(
                [_intensity(operator) for operator in own],
                [_height(operator) for operator in own],
                s=[12 + 400 * operator.ms / each.wall_ms for operator in own],
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
                label=kind,
            )
    reach = _intensities(moving, roof.ridge)
    panel.plot(reach, np.minimum(roof.flops_per_s, reach * roof.bytes_per_s) / 1e9, color="#1c1917", linewidth=1.2)
    panel.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="10$^9$ operations/s")
    panel.axvline(roof.ridge, color="#1c1917", linewidth=0.6, linestyle=":")
    panel.annotate(
        f"matrix product {roof.flops_per_s / 1e9:.0f} Gop/s",
        (reach[-1], roof.flops_per_s / 1e9),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    panel.annotate(
        f"copy {roof.bytes_per_s / 1e9:.0f} GB/s",
        (reach[0], reach[0] * roof.bytes_per_s / 1e9),
        xytext=(26, 4),
        textcoords="offset points",
        fontsize=8,
    )
    panel.set_title(f"{each.model}, batch {each.batch_size}: {each.memory_share:.0%} memory-bound", fontsize=10)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _intensity(operator: Operator) -> float:
    return max(operator.flops / operator.bytes, _FLOOR)


def _height(operator: Operator) -> float:
    """Operations a second, 10^9; of what only moves bytes, those that its place on x stands for."""
    return _intensity(operator) * operator.bytes / operator.ms / 1e6


def _intensities(operators: Sequence[Operator], ridge: float) -> np.ndarray:
    most = max([_intensity(operator) for operator in operators] + [ridge])
    return np.geomspace(_FLOOR, 3 * most, 200)
