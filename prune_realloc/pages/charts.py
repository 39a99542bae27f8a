"""Charts as SVG: the page's style sheet gives the colours, so that one drawing serves light, dark and paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup, escape

from prune_realloc.pages.content import Bars, Boxes, Chart, Drawing, Heat, Series
from prune_realloc.pages.scales import Scale, drawable, thinned

WIDTH = 360
"""Of every drawing, in units of which a letter has 11; about what a phone has."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 62, 18, 24, 42, 240
_BAR, _STAGE = 22, 15
_COLOURS = 8
_SHAPES = ("circle", "square", "triangle", "diamond")

Colours = Mapping[str, int]
"""Name -> its place among the colours and shapes."""


def colours_of(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def drawn(drawing: Drawing, colours: Colours, widest: int) -> Markup:
    """The drawing as an SVG element.

    Args:
        widest: width of the widest box of the figure.
    """
    if isinstance(drawing, Chart):
        return _chart(drawing, colours)
    if isinstance(drawing, Bars):
        return _bars(drawing, colours)
    if isinstance(drawing, Heat):
        return _heat(drawing)
    return _boxes(drawing, colours, widest)


def swatch(name: str, place: int, drawings: Sequence[Drawing]) -> Markup:
    """The mark of a legend: as the name is drawn, which is as points, as a line without any, or as a box."""
    series = [
        each for drawing in drawings if isinstance(drawing, Chart) for each in drawing.series if each.name == name
    ]
    if not series:
        inside = Markup('<rect class="p c{}" x="1" y="2" width="12" height="10"/>').format(place % _COLOURS)
    elif any(each.marked for each in series):
        inside = _marker(7, 7, 5, place)
    else:
        inside = _line(0, 7, 14, 7, f"l d c{place % _COLOURS}")
    return Markup('<svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{}</svg>').format(inside)


def _svg(title: str, height: float, parts: Sequence[Markup], width: float = WIDTH) -> Markup:
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}"><text class="t" x="4" y="14">{}</text>')
    return head.format(width, height, title, title) + Markup("").join(parts) + Markup("</svg>")


def _chart(chart: Chart, colours: Colours) -> Markup:
    lines = {series.name: _points(chart, series) for series in chart.series}
    every = [point for points in lines.values() for point in points]
    if not every:
        return _svg(chart.title, 40, [_text(4, 32, "no numbers")])
    tall = [y for series in chart.series for pair in series.spread for y in pair if not chart.y.log or y > 0]
    x = Scale(chart.x, [x for x, _ in every], _LEFT, WIDTH - _RIGHT)
    y = Scale(chart.y, [*(y for _, y in every), *tall], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(chart, x, y)]
    for series in chart.series:
        parts += _series(series, lines[series.name], x, y, colours[series.name], chart)
    return _svg(chart.title, _HEIGHT, parts)


def _points(chart: Chart, series: Series) -> list[tuple[float, float]]:
    found = drawable(series.points)
    found = [(x, y) for x, y in found if (x > 0 or not chart.x.log) and (y > 0 or not chart.y.log)]
    return thinned(found) if series.line else found


def _grid(chart: Chart, x: Scale, y: Scale) -> Iterator[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in x.marks():
        at = x.place(value)
        yield _line(at, _TOP, at, bottom, "g")
        yield _text(at, bottom + 18, _mark(value), "m")
    for value in y.marks():
        at = y.place(value)
        yield _line(_LEFT, at, right, at, "g")
        yield _text(_LEFT - 5, at + 4, _mark(value), "e")
    yield _text((_LEFT + right) / 2, _HEIGHT - 6, chart.x.label, "m")
    turned = Markup('<text class="m" transform="translate(11 {:.0f}) rotate(-90)">{}</text>')
    yield turned.format((_TOP + bottom) / 2, chart.y.label)


def _mark(value: float) -> str:
    """A round value in few letters: 1e-5, not 1e-05, and 1e-4, not 0.0001."""
    if not value or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    digits, power = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _series(
    series: Series, points: Sequence[tuple[float, float]], x: Scale, y: Scale, place: int, chart: Chart
) -> Iterator[Markup]:
    at = [(x.place(a), y.place(b)) for a, b in points]
    if series.line and len(at) > 1:
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        guide = "" if series.marked else " d"
        yield Markup('<polyline class="l c{}{}" points="{}"/>').format(place % _COLOURS, guide, joined)
    if not series.marked:
        return
    whole = len(points) == len(series.points)  # thinned points stand for several, which have no tips of their own
    for number, ((a, b), value) in enumerate(zip(at, points, strict=True)):
        tip = series.tips[number] if series.tips and whole else _tip(series.name, value, chart)
        radius = series.sizes[number] if series.sizes and whole else 3.0
        if series.spread and whole:
            low, high = series.spread[number]
            yield _line(a, y.place(low), a, y.place(high), f"l c{place % _COLOURS}")
        yield _marker(a, b, radius, place, tip)


def _tip(name: str, point: tuple[float, float], chart: Chart) -> str:
    return f"{name}: {chart.x.label} {point[0]:.4g}, {chart.y.label} {point[1]:.4g}"


def _marker(x: float, y: float, radius: float, place: int, tip: str = "") -> Markup:
    """A circle, square, triangle or diamond, so that colour is not all that tells names apart."""
    shape, r = _SHAPES[place % len(_SHAPES)], radius
    said = Markup(' data-tip="{}"').format(tip) if tip else ""
    kind = f"p c{place % _COLOURS}"
    if shape == "circle":
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"{}/>').format(kind, x, y, r, said)
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "triangle": ((0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)),
        "diamond": ((0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)),
    }[shape]
    joined = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return Markup('<polygon class="{}" points="{}"{}/>').format(kind, joined, said)


def _bars(bars: Bars, colours: Colours) -> Markup:
    longest = max([bars.reach, *(sum(length for _, length in parts) for _, parts in bars.rows)])
    scale, parts = (WIDTH - 60) / longest, []
    for number, (label, lengths) in enumerate(bars.rows):
        top, left = 24 + number * 2 * _BAR, 4.0
        parts.append(_text(4, top + 12, label))
        for name, length in lengths:
            tip = f"{label}, {name}: {length:.3g} {bars.unit}"
            parts.append(_box(left, top + 17, scale * length, _BAR - 6, colours[name], tip))
            left += scale * length
        parts.append(_text(left + 4, top + 29, f"{sum(length for _, length in lengths):.3g} {bars.unit}"))
    return _svg(bars.title, 24 + len(bars.rows) * 2 * _BAR + 6, parts)


def _heat(heat: Heat) -> Markup:
    count = max(len(heat.matrix), 1)
    side, parts = max(14.0, 120 / count), []
    for i, row in enumerate(heat.matrix):
        parts.append(_text(18, 40 + (i + 0.5) * side, str(i), "e"))
        parts.append(_text(24 + (i + 0.5) * side, 32, str(i), "m"))
        for j, value in enumerate(row):
            cell = Markup(
                '<rect class="h" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" style="fill-opacity:{:.2f}"'
                ' data-tip="heads {} and {}: {:.3f}"/>'
            )
            at = (24 + j * side, 36 + i * side)
            parts.append(cell.format(*at, side - 1, side - 1, max(0.0, min(value, 1.0)), i, j, value))
    return _svg(heat.title, 44 + count * side, parts, 32 + count * side)


def _boxes(boxes: Boxes, colours: Colours, widest: int) -> Markup:
    """A frame as wide as the channels of each stage, and in it a bar for every other component, all centred."""
    scale, top, parts = (WIDTH - 12) / max(widest, 1), 24.0, []
    for label, components in boxes.stages:
        inner = [each for each in components if each[0] != "channels"]
        height = _STAGE * len(inner) + 8
        parts.append(_text(WIDTH / 2, top + 12, label, "m"))
        for name, units, what in components:
            if name == "channels":
                parts.append(_centred(units * scale, top + 16, height, colours[name], f"{label}, {what}", "f"))
        for number, (name, units, what) in enumerate(inner):
            at = top + 22 + number * _STAGE
            parts.append(_centred(units * scale, at, _STAGE - 4, colours[name], f"{label}, {what}", "p"))
        top += height + 26
    return _svg(boxes.title, top, parts)


def _centred(width: float, top: float, height: float, place: int, tip: str, kind: str) -> Markup:
    return _box((WIDTH - width) / 2, top, width, height, place, tip, kind)


def _box(x: float, y: float, width: float, height: float, place: int, tip: str, kind: str = "p") -> Markup:
    box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" data-tip="{}"/>')
    return box.format(f"{kind} c{place % _COLOURS}", x, y, max(width, 0.5), height, tip)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, kind: str = "s") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, escape(text))
