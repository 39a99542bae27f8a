"""A page as a self-contained HTML file, as Markdown and as JSON: the same content three times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from prune_realloc.core.files import json_file
from prune_realloc.pages.charts import colours_of, drawn, swatch
from prune_realloc.pages.content import Boxes, Figure, Heat, Page, Table
from prune_realloc.pages.rendering import render

SHOWN_ROWS = 200
"""So many rows of a table are for people; the JSON has all."""
_LONGEST = 300
"""Letters of a cell, of which a list of a thousand classes would have more."""


def as_html(page: Page) -> bytes:
    """One file that needs no other and no network; what is no letter of any alphabet is spelled out."""
    found = render(
        "page.html.jinja",
        page=page,
        style=_beside("page.css"),
        script=_beside("page.js"),
        figure=_figure,
        shown=_shown,
        kind=lambda part: type(part).__name__,
    )
    return found.encode(errors="backslashreplace")


def as_markdown(page: Page) -> bytes:
    """A table in place of each figure."""
    found = render("page.md.jinja", page=page, shown=_shown, kind=lambda part: type(part).__name__)
    return found.encode(errors="backslashreplace")


def as_json(page: Page) -> bytes:
    """Every number, of figures too."""
    return json_file(asdict(page))


FORMATS: dict[str, Callable[[Page], bytes]] = {"html": as_html, "md": as_markdown, "json": as_json}
"""Name -> writer."""


def _beside(name: str) -> Markup:
    """A style sheet or script of ours, which goes into the page as it is."""
    return Markup((files("prune_realloc.pages") / "templates" / name).read_text(encoding="utf-8"))


def _figure(figure: Figure) -> dict[str, Any]:
    """Drawings and legend."""
    colours = colours_of(figure.names)
    stages = [stage for each in figure.drawings if isinstance(each, Boxes) for stage in each.stages]
    widest = max((units for _, parts in stages for _, units, _ in parts), default=1)
    return {
        "drawings": [drawn(each, colours, widest) for each in figure.drawings],
        "small": all(isinstance(each, Heat) for each in figure.drawings),
        "legend": [(swatch(name, place, figure.drawings), name) for name, place in colours.items()],
    }


def _shown(table: Table) -> dict[str, Any]:
    """The rows that are shown, and how many are not."""
    rows = [tuple(_short(cell) for cell in row) for row in table.rows]
    body, last = (rows[:-1], rows[-1]) if table.total else (rows, None)
    return {"rows": body[:SHOWN_ROWS], "last": last, "left_out": max(0, len(body) - SHOWN_ROWS)}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} letters)"
