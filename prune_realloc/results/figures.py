"""Pictures."""

from __future__ import annotations

import io

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.structure import INNER_AXES
from prune_realloc.planning.ranking import retention
from prune_realloc.results.summary import BUDGETS
from prune_realloc.results.tables import LABELS

_COLOURS = {"qk": "#0b6e99", "v": "#c2410c", "ffn": "#4d7c0f"}
_MARKERS = {"qk": "o", "v": "s", "ffn": "^"}


def retention_figure(analysis: Analysis) -> bytes:
    """PNG: blocks on x, the share of Q/K, V and FFN that is kept as lines, one panel per budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(BUDGETS), sharey=True)
    for panel, budget in zip(panels, BUDGETS, strict=True):
        kept = retention(analysis, budget)
        for axis in INNER_AXES:
            points = sorted(
                (int(name.split(".")[1]), share) for name, share in kept.items() if name.endswith(f".{axis}")
            )
            panel.plot(
                [b for b, _ in points],
                [100 * s for _, s in points],
                label=LABELS[axis],
                color=_COLOURS[axis],
                marker=_MARKERS[axis],
                markersize=4.5,
                linewidth=1.6,
            )
        panel.set_title(f"{100 * budget:.0f} % of the MACs kept", fontsize=10)
        panel.set_xlabel("block")
        panel.set_ylim(-4, 104)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("units kept, %")
    panels[0].legend(frameon=False, loc="best", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
