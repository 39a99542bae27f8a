"""The pictures of pages, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.ranking import retention
from prune_realloc.results.summary import BUDGETS
from prune_realloc.results.tables import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 130
_COLOURS = {"qk": "#0b6e99", "v": "#c2410c", "ffn": "#4d7c0f", "hidden": "#6d28d9"}
_MARKERS = {"qk": "o", "v": "s", "ffn": "^", "hidden": "D"}


def retention_figure(*analyses: Analysis) -> bytes:
    """Blocks on x, the share of Q/K, V, FFN and hidden that is kept as lines; a panel per budget, a row per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4 * len(analyses)), dpi=_DPI, layout="constrained")
    rows = figure.subplots(len(analyses), len(BUDGETS), sharey=True, squeeze=False)
    for panels, analysis in zip(rows, analyses, strict=True):
        for panel, budget in zip(panels, BUDGETS, strict=True):
            _draw_retention(panel, retention(analysis, budget))
            panel.set_title(f"{100 * budget:.0f} % of the MACs kept", fontsize=10)
        named = f"{analysis.model['architecture']}\n" if len(analyses) > 1 else ""
        panels[0].set_ylabel(f"{named}units kept, %")
    rows[0][0].legend(frameon=False, loc="best", fontsize=9)
    return as_png(figure)


def _draw_retention(panel: Axes, kept: Mapping[str, float]) -> None:
    """One line for each axis that the network has, from site name -> share of its units."""
    for axis in INNER_AXES:
        points: dict[int, list[float]] = {}
        for name, share in kept.items():
            of, block = site_place(name)
            if of == axis and block is not None:
                points.setdefault(block, []).append(100 * share)
        if not points:
            continue
        blocks = sorted(points)
        panel.plot(
            blocks,
            [fmean(points[block]) for block in blocks],  # several sites of a block are one point
            label=LABELS[axis],
            color=_COLOURS[axis],
            marker=_MARKERS[axis],
            markersize=4.5,
            linewidth=1.6,
        )
    panel.set_xlabel("block")
    panel.set_ylim(-4, 104)
    panel.locator_params(axis="x", integer=True)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def as_png(figure: Figure) -> bytes:
    """The file's bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
