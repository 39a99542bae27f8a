"""A profile as a section of a page: shares of the time, the roofline, and the operators that take most of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import sqrt

from prune_realloc.core.files import json_file
from prune_realloc.core.names import count_threads
from prune_realloc.pages.content import Axis, Bars, Chart, Figure, Page, Panel, Series, Table
from prune_realloc.pages.writers import as_html
from prune_realloc.results.operators import KINDS
from prune_realloc.results.profile import PROFILE_FILE, Operator, Pass, Profile

_FLOOR = 1e-2
"""Operations for each byte at which what computes nothing is drawn."""
_LISTED = 25
"""So many operators the page lists for each network and batch size."""
_TEXT = (
    "Where the run time goes. An operator that moves many bytes for each operation waits for the memory, and fewer "
    "multiply-adds do not make it faster."
)


def profile_files(found: Profile) -> dict[str, bytes]:
    """The numbers and the page, by the names of their files."""
    names = ", ".join(dict.fromkeys(each.model for each in found.passes))
    panel = profile_panel(found)
    page = Page(title=f"Where the time of {names} goes", lines=panel.lines, panels=(panel,))
    numbers = asdict(found) | {"sentences": found.sentences()}
    return {PROFILE_FILE: json_file(numbers), "profile.html": as_html(page)}


def profile_panel(found: Profile, owner: str = "") -> Panel:
    """Shares by class and component, and each operator below the measured ceilings; `owner` begins its title."""
    where = (
        f"{found.device_name} ({found.device}), {count_threads(found.threads)}, images {found.input_shape}; eager, "
        f"float32. A matrix product reaches {found.ceilings.flops_per_s / 1e9:.1f} billion operations a second, a copy "
        f"{found.ceilings.bytes_per_s / 1e9:.1f} GB/s."
    )
    return Panel(
        title=f"{owner}Where the time goes",
        text=f"{_TEXT} {where}",
        lines=tuple(found.sentences()),
        parts=(_shares(found), *(_component_table(each) for each in found.passes), _roofline(found)),
    )


def _shares(found: Profile) -> Figure:
    rows = tuple(
        (_named(each), tuple((kind, 100 * ms / each.wall_ms) for kind, ms in each.kinds.items() if ms > 0))
        for each in found.passes
    )
    kinds = list(dict.fromkeys(kind for each in found.passes for kind in each.kinds))
    cells = tuple(
        (kind, *(f"{100 * each.kinds.get(kind, 0) / each.wall_ms:.1f}" for each in found.passes)) for kind in kinds
    )
    columns = ("class of operators", *map(_named, found.passes))
    return Figure(
        title="Time by class of operators",
        text="Each bar is one pass; its parts are the classes of operators, in percent of the wall time.",
        drawings=(Bars(title="share of the time", unit="%", rows=rows, reach=100),),
        table=Table(title="share of the time, %", columns=columns, rows=cells),
    )


def _component_table(each: Pass) -> Table:
    """Class of operators by component, with their sums."""
    rows = [
        (kind, *(_percent(each.cells[part].get(kind, 0), each) for part in each.components), _percent(ms, each))
        for kind, ms in each.kinds.items()
    ]
    last = (*(_percent(ms, each) for ms in each.components.values()), _percent(sum(each.kinds.values()), each))
    return Table(
        title=f"{_named(each)}: share of the time by component, %",
        columns=("class of operators", *each.components, "all"),
        rows=(*rows, ("all", *last)),
        total=True,
    )


def _percent(ms: float, each: Pass) -> str:
    return f"{100 * ms / each.wall_ms:.1f}"


def _roofline(found: Profile) -> Figure:
    columns = ("pass", "operator", "class", "component", "shapes", "calls", "ms", "op/byte", "bound")
    rows = tuple(row for each in found.passes for row in _operator_rows(each))
    return Figure(
        title="Roofline",
        text="Each point is an operator on tensors of one shape, its area the share of the time; the line is what the "
        "machine can do. Left of its bend the memory limits. What computes nothing is drawn at 0.01 operations per "
        f"byte. The table lists the {_LISTED} longest of each pass.",
        drawings=tuple(_chart(each, found) for each in found.passes),
        table=Table(title="operators", columns=columns, rows=rows),
    )


def _operator_rows(each: Pass) -> Iterator[tuple[str, ...]]:
    for one in each.operators[:_LISTED]:
        shapes = ", ".join(map(str, one.shapes))
        intensity = f"{one.flops / one.bytes:.2f}" if one.bytes else ""
        bound = one.bound or "moves nothing"
        yield (
            _named(each),
            one.name,
            one.kind,
            one.component,
            shapes,
            str(one.calls),
            f"{one.ms:.3f}",
            intensity,
            bound,
        )


def _chart(each: Pass, found: Profile) -> Chart:
    moving = [one for one in each.operators if one.bytes and one.ms > 0]
    roof = found.ceilings
    most = 3 * max([_intensity(one) for one in moving] + [roof.ridge])
    corners = tuple((x, min(roof.flops_per_s, x * roof.bytes_per_s) / 1e9) for x in (_FLOOR, roof.ridge, most))
    classes = [kind for kind in KINDS if any(one.kind == kind for one in moving)]
    points = tuple(_operators(kind, [one for one in moving if one.kind == kind], each) for kind in classes)
    return Chart(
        title=f"{_named(each)}: {each.memory_share:.0%} memory-bound",
        x=Axis(label="operations per byte", log=True),
        y=Axis(label="billion operations a second", log=True),
        series=(*points, Series(name="ceilings", points=corners, marked=False)),
    )


def _operators(kind: str, operators: list[Operator], each: Pass) -> Series:
    return Series(
        name=kind,
        points=tuple((_intensity(one), _intensity(one) * one.bytes / one.ms / 1e6) for one in operators),
        tips=tuple(f"{one.name}, {one.component}, {one.ms:.3f} ms, {one.bound}-bound" for one in operators),
        sizes=tuple(2 + 11 * sqrt(one.ms / each.wall_ms) for one in operators),
        line=False,
    )


def _named(each: Pass) -> str:
    return f"{each.model}, batch {each.batch_size}"


def _intensity(operator: Operator) -> float:
    return max(operator.flops / operator.bytes, _FLOOR)
