"""The curves of trainings as figures, and the page that a run writes after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_realloc.core.files import write_file
from prune_realloc.pages.content import Axis, Chart, Figure, Page, Panel, Series, Table, table_of
from prune_realloc.pages.writers import as_html

_FORMATS = {
    "epoch": ".0f",
    "loss": ".4f",
    "lr": ".2e",
    "val_loss": ".4f",
    "top1": ".2%",
    "images_per_second": ".0f",
}
"""Column of the log that pages show -> how its numbers are written."""
_TEXT = (
    "The training loss is of augmented images, with smoothing and teacher where there are some, so the two losses "
    "are not of one thing."
)

Rows = Sequence[Mapping[str, float]]


def write_curves(rows: Rows, settings: Mapping[str, Any], folder: Path) -> None:
    """`report.html` of a training run: loss and accuracy over the epochs, and its settings."""
    best = max(rows, key=lambda row: row["top1"])
    minutes = sum(row["seconds"] for row in rows) / 60
    line = (
        f"Epochs: {len(rows)}. Top-1 {rows[-1]['top1']:.2%} after the last, {best['top1']:.2%} after the best "
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
    charts = tuple(
        Chart(
            title=title,
            x=Axis(label="epoch", whole=True),
            y=Axis(label=unit),
            series=tuple(
                Series(name=name, points=tuple((row["epoch"], scale * row[column]) for row in rows))
                for name, rows in runs.items()
            ),
        )
        for title, column, unit, scale in (
            ("training, as it is minimised", "loss", "loss, nats", 1),
            ("validation, cross-entropy", "val_loss", "loss, nats", 1),
            ("validation top-1", "top1", "%", 100),
        )
    )
    table = table_of("losses and accuracy by epoch", charts)
    return Figure(title="Loss and accuracy over the epochs", text=_TEXT, drawings=charts, table=table)


def epoch_table(rows: Rows) -> Table:
    """The last twenty epochs of a run."""
    cells = tuple(tuple(format(row[name], form) for name, form in _FORMATS.items()) for row in rows[-20:])
    return Table(title="The last epochs", columns=tuple(_FORMATS), rows=cells)
