"""What a page holds, as plain data: panels of sentences, figures and tables. The three writers show all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in rows and columns."""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    total: bool = False
    """Is the last row the sum of the others, which stays last however they are sorted?"""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a chart."""

    label: str
    log: bool = False
    whole: bool = False
    """Has it no place between two whole numbers?"""
    low: float | None = None
    """Where it begins; None: where the values do."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one name."""

    name: str
    points: tuple[tuple[float, float], ...]
    tips: Row = ()
    """What each point says of itself; empty: its name and numbers."""
    sizes: tuple[float, ...] = ()
    """Radius of each point; empty: all alike."""
    spread: tuple[tuple[float, float], ...] = ()
    """(lowest, highest) y of each point, drawn as a bar; empty: none."""
    line: bool = True
    """Are the points joined?"""
    marked: bool = True
    """Is each point marked? Not so, it is a line that only guides the eye."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines or points over two axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars of several parts each."""

    title: str
    unit: str
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    """(label, (part, length) ...); parts of one name have one colour."""
    reach: float
    """The length of a whole, which has room."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A square of numbers from 0 to 1, or below."""

    title: str
    matrix: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """A network from its first stage to its last; widths are drawn to the scale of the widest of the figure."""

    title: str
    stages: tuple[tuple[str, tuple[tuple[str, int, str], ...]], ...]
    """(label, (component, units, what the units are) ...), the component `channels` around the others."""


Drawing = Chart | Bars | Heat | Boxes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Drawings side by side, with the sentence that says what they show and the table of their numbers."""

    title: str
    text: str
    drawings: tuple[Drawing, ...]
    table: Table

    @property
    def names(self) -> list[str]:
        """What has a colour of its own, in the order in which it first appears."""
        return list(dict.fromkeys(name for drawing in self.drawings for name in _names(drawing)))


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a page does not show."""

    what: str
    why: str
    command: str
    """That makes it; empty: none does."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One section."""

    title: str
    text: str
    """One or two sentences for who has never used the tool."""
    lines: Row = ()
    notes: Row = ()
    """What must be known before its numbers are believed."""
    parts: tuple[Figure | Table, ...] = ()
    code: Row = ()
    """Lines for a terminal, shown letter by letter."""
    missing: tuple[Missing, ...] = ()
    """Of this section only."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One document."""

    title: str
    lines: Row
    """What matters most, first."""
    panels: tuple[Panel, ...]
    missing: tuple[Missing, ...] = field(default=())
    """Whole sections that are not there."""

    @property
    def noted(self) -> list[tuple[int, Panel]]:
        """The panels that have notes, with their numbers from 1."""
        return [(number, panel) for number, panel in enumerate(self.panels, 1) if panel.notes]


def _names(drawing: Drawing) -> Sequence[str]:
    if isinstance(drawing, Chart):
        return [series.name for series in drawing.series]
    if isinstance(drawing, Bars):
        return [name for _, parts in drawing.rows for name, _ in parts]
    if isinstance(drawing, Boxes):
        return [name for _, parts in drawing.stages for name, _, _ in parts]
    return []


def table_of(title: str, charts: Sequence[Chart]) -> Table:
    """The numbers of charts over one x: a row for each x, a column for each line of each chart."""
    columns = [(f"{chart.title}: {each.name}", dict(each.points)) for chart in charts for each in chart.series]
    places = sorted({x for _, values in columns for x in values})
    rows = tuple((f"{x:g}", *(f"{values[x]:.4g}" if x in values else "" for _, values in columns)) for x in places)
    return Table(title=title, columns=(charts[0].x.label, *(name for name, _ in columns)), rows=rows)
