"""What networks became while they were trained, cut to what pruning keeps, and trained again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from prune_realloc.pages.content import Axis, Chart, Figure, Panel, Series, Table
from prune_realloc.reporting.tables import owners
from prune_realloc.results.trail import COMPONENTS, Trail, trail_columns, trail_rows


def grown_panel(trails: Mapping[str, Trail]) -> Panel:
    """Widths and accuracies by round."""
    owner = owners(trails)
    return Panel(
        title="Widths by round",
        text="Each round trains the network, sees what pruning keeps of it, and moves its widths there at equal cost. "
        "A later network has been trained for longer, through the weights that it inherits: its accuracy alone does "
        "not tell what its widths are worth.",
        lines=tuple(owner[folder] + _outcome(trail) for folder, trail in trails.items()),
        notes=tuple(owner[folder] + note for folder, trail in trails.items() for note in trail.notes),
        parts=tuple(_rounds(trail, owner[folder]) for folder, trail in trails.items()),
    )


def _outcome(trail: Trail) -> str:
    first, last = trail.rounds[0].top1, trail.rounds[-1].top1
    return f"{len(trail.rounds)} networks are trained; the first is right on {first:.2%}, the last on {last:.2%}"


def _rounds(trail: Trail, named: str) -> Figure:
    charts = [_chart(component, _widths(trail, component), low=0.0) for component in COMPONENTS]
    right = tuple((float(number), 100 * found.top1) for number, found in enumerate(trail.rounds))
    accuracy = _chart("top-1, %", [Series(name="top-1", points=right)])
    return Figure(
        title=f"{named}From round to round",
        text="Widths of each stage, the mean of its blocks where they differ, of one head for qk and v; and on how "
        "many of the images each trained network is right. In the table spaces separate stages, slashes blocks.",
        drawings=(*charts, accuracy),
        table=Table(title="every round", columns=trail_columns(), rows=tuple(trail_rows(trail.rounds))),
    )


def _chart(title: str, series: list[Series], low: float | None = None) -> Chart:
    return Chart(title=title, x=Axis(label="round", whole=True), y=Axis(label=title, low=low), series=tuple(series))


def _widths(trail: Trail, component: str) -> list[Series]:
    """A line for each stage."""
    by_stage = zip(*(found.widths(component) for found in trail.rounds), strict=True)
    return [Series(name=f"stage {stage}", points=tuple(_points(widths))) for stage, widths in enumerate(by_stage)]


def _points(by_round: tuple[list[int], ...]) -> Iterator[tuple[float, float]]:
    for number, widths in enumerate(by_round):
        yield float(number), fmean(widths)
