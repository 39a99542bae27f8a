"""Networks of equal cost with other shares of attention layers, as `profile --sweep-mhsa` made them."""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.pages.content import Axis, Chart, Figure, Panel, Series, Table
from prune_realloc.reporting.tables import owners
from prune_realloc.results.sandwiches import Sandwiches


def shares_panel(found: Mapping[str, Sandwiches]) -> Panel:
    """Time, and accuracy where they were trained, over the share of attention."""
    owner = owners(found)
    return Panel(
        title="How much attention?",
        text="EfficientViTs of equal multiply-adds that differ in the share of attention layers among their attention "
        "and FFN layers: what attention costs in time, and, where they were trained, what it is worth.",
        notes=tuple(
            f"{owner[folder]}one seed each: a try-out, no evidence"
            for folder, sweep in found.items()
            if sweep.epochs is not None
        ),
        parts=tuple(_figure(sweep, owner[folder]) for folder, sweep in found.items()),
    )


def _figure(sweep: Sandwiches, named: str) -> Figure:
    charts = [_chart(f"batch {size}", f"ms, batch {size}", _times(sweep, size)) for size in sweep.networks[0].ms]
    right = tuple((100 * each.share, 100 * each.top1) for each in sweep.networks if each.top1 is not None)
    return Figure(
        title=f"{named}Networks by their share of attention",
        text=f"Each point is a network; {sweep.title}.",
        drawings=(*charts, *([_chart("accuracy", "top-1, %", right)] if right else [])),
        table=Table(title="every network", columns=sweep.columns(), rows=tuple(sweep.rows())),
    )


def _times(sweep: Sandwiches, size: int) -> tuple[tuple[float, float], ...]:
    return tuple((100 * each.share, each.ms[size]) for each in sweep.networks)


def _chart(title: str, what: str, points: tuple[tuple[float, float], ...]) -> Chart:
    line = Series(name=what, points=tuple(sorted(points)))
    return Chart(title=title, x=Axis(label="attention layers, %"), y=Axis(label=what), series=(line,))
