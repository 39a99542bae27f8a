"""Self-contained HTML pages: the report of an analysis, the curves of a training."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.files import make_folder, write_file, write_files
from prune_realloc.core.taken import taken_from
from prune_realloc.results.figures import curves_figure, retention_figure
from prune_realloc.results.rendering import render
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import component_table, facts, share_meaning, site_table

_PROVENANCE = ("model", "data", "scorer", "samples", "seed", "versions")
_EPOCH_FORMATS = {
    "epoch": ".0f",
    "loss": ".4f",
    "lr": ".2e",
    "val_loss": ".4f",
    "top1": ".2%",
    "images_per_second": ".0f",
}
"""Column of a training's log that the page shows -> how its numbers are written."""


@dataclass(frozen=True)
class _Cells:
    """The texts of a table."""

    columns: list[str]
    rows: list[tuple[str, ...]]


def write_report(analysis: Analysis, folder: str | Path) -> Path:
    """Write `retention.png` and the self-contained `report.html`; returns the page's path."""
    folder = Path(folder)
    make_folder(folder)
    write_files(folder, report_files(analysis))
    return folder / "report.html"


def report_files(analysis: Analysis) -> dict[str, bytes]:
    """The picture and the page of an analysis, by the names of their files."""
    picture = retention_figure(analysis)
    return {"retention.png": picture, "report.html": _bytes(_report(summary(analysis), picture))}


def write_curves(rows: Sequence[Mapping[str, float]], settings: Mapping[str, Any], folder: Path) -> None:
    """`report.html` of a training run: loss and accuracy over the epochs, and its settings."""
    page = render(
        "training.html.jinja",
        name=folder.name,
        rows=rows,
        best=max(rows, key=lambda row: row["top1"]),
        minutes=sum(row["seconds"] for row in rows) / 60,
        picture=_base64(curves_figure(rows)),
        formats=_EPOCH_FORMATS,
        settings=json.dumps(settings, indent=1),
    )
    write_file(folder / "report.html", _bytes(page))


def _report(numbers: dict[str, Any], picture: bytes) -> str:
    return render(
        "report.html.jinja",
        name=numbers["model"]["architecture"],
        facts=facts(numbers),
        notes=numbers["notes"],
        picture=_base64(picture),
        share_of=share_meaning(numbers),
        blocks=_cells(site_table(numbers)),
        costs=_cells(component_table(numbers)),
        taken=[(name, fact.text(), fact.why()) for name, fact in taken_from(numbers["taken"]).items()],
        provenance=json.dumps({key: numbers[key] for key in _PROVENANCE}, indent=1),
    )


def _cells(table: Table) -> _Cells:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return _Cells([str(column.header) for column in table.columns], list(zip(*columns, strict=True)))


def _bytes(page: str) -> bytes:
    """The page as a file; file names on Linux may hold what is no letter of any alphabet, which is spelled out."""
    return page.encode(errors="backslashreplace")


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
