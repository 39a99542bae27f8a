"""The curves of trainings as figures, and the page that a run writes after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_realloc.core.files import write_file
from prune_realloc.pages.content import Axis, Chart, Figure, Page, Panel, Series, Table, table_of
from prune_realloc.pages.writers import as_html
from prune_realloc.training.measures import MEASURES, measure_of

_FORMATS = {"epoch": ".0f", "loss": ".4f", "lr": ".2e", "val_loss": ".4f"}
"""Column of the log that pages show -> how its numbers are written; behind them that of the measure, and the speed."""
_TEXT = (
    "The training loss is of augmented images, with smoothing and teacher where there are some, so the two losses "
    "are not of one thing."
)

Rows = Sequence[Mapping[str, float]]


def write_curves(rows: Rows, settings: Mapping[str, Any], folder: Path) -> None:
    """`report.html` of a training run: loss and accuracy over the epochs, and its settings."""
    name = measure_of(rows[0])
    measure, best = MEASURES[name], max(rows, key=lambda row: row[name])
    minutes = sum(row["seconds"] for row in rows) / 60
    last, most = (f"{row[name]:{measure.form}}" for row in (rows[-1], best))
    text = measure.text[0].upper() + measure.text[1:]
    line = (
        f"Epochs: {len(rows)}. {text} {last} after the last, {most} after the best "
        f"({best['epoch']:.0f}). Minutes: {minutes:.1f}."
    )
    panel = Panel(
        title="Curves",
        text="What was minimised, and how well the network does on images that it was not trained on; the settings "
        "below.",
        parts=(curves_figure({folder.name: rows}), epoch_table(rows)),
        code=tuple(json.dumps(settings, indent=1).splitlines()),
    )
    page = Page(title=f"Training of {folder.name}", lines=(line,), panels=(panel,))
    write_file(folder / "report.html", as_html(page))


def curves_figure(runs: Mapping[str, Rows]) -> Figure:
    """Losses and accuracy over epochs, a line for each run."""
    names = dict.fromkeys(measure_of(rows[0]) for rows in runs.values() if rows)
    charts = [_chart("training, as it is minimised", "loss", "loss, nats", 1, runs)]
    for name in names or ("top1",):
        measure, own = MEASURES[name], {run: rows for run, rows in runs.items() if not rows or name in rows[0]}
        charts.append(_chart(f"validation, {measure.loss.split(',')[0]}", "val_loss", measure.loss, 1, own))
        charts.append(_chart(f"validation {measure.text}", name, measure.unit, measure.scale, own))
    table = table_of("losses and accuracy by epoch", charts)
    drawn = any(len(rows) > 1 for rows in runs.values())
    return Figure(
        title="Loss and accuracy over the epochs",
        text=_TEXT if drawn else f"One epoch has no curve; the table has its numbers. {_TEXT}",
        drawings=tuple(charts) if drawn else (),
        table=table,
    )


def _chart(title: str, column: str, unit: str, scale: float, runs: Mapping[str, Rows]) -> Chart:
    return Chart(
        title=title,
        x=Axis(label="epoch", whole=True),
        y=Axis(label=unit),
        series=tuple(
            Series(name=name, points=tuple((row["epoch"], scale * row[column]) for row in rows))
            for name, rows in runs.items()
        ),
    )


def epoch_table(rows: Rows) -> Table:
    """The last twenty epochs of a run."""
    name = measure_of(rows[0])
    formats = {**_FORMATS, name: MEASURES[name].form, "images_per_second": ".0f"}
    cells = tuple(tuple(format(row[name], form) for name, form in formats.items()) for row in rows[-20:])
    return Table(title="The last epochs", columns=tuple(formats), rows=cells)
