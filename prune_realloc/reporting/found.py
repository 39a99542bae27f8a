"""What an analysis has found: what is kept of each component and block, and whether its ranking can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.pages.content import Axis, Chart, Figure, Panel, Series, Table, table_of
from prune_realloc.planning.ranking import retention
from prune_realloc.reporting.tables import on_page, owners
from prune_realloc.results.checked import Check, Tried
from prune_realloc.results.summary import BUDGETS, summary
from prune_realloc.results.tables import LABELS, component_table, facts, share_meaning, site_table

_FLOOR = 1e-9
"""Nats at which the chart draws what loses nothing."""

_SCORED = {"nats": "It says how much worse the network gets on real images without the unit. "}
"""Unit of the scores -> what they say."""


def found_panel(analyses: Mapping[str, Analysis]) -> Panel:
    """Retention, shares and costs of each analysis."""
    parts: list[Figure | Table] = []
    owner = owners(analyses)
    every = [(owner[folder], analysis, summary(analysis)) for folder, analysis in analyses.items()]
    for named, analysis, numbers in every:
        costs = on_page(component_table(numbers), named, total=True)
        parts += [_retention(analysis, named), on_page(site_table(numbers), named, total=True), costs]
    meant = share_meaning(every[0][2])
    return Panel(
        title="What was found",
        text="Each unit of the network (a head, a Q/K or V dimension, an FFN neuron, a channel) has a score. "
        f"{_SCORED.get(every[0][2]['unit'], '')}share: part of {meant}, in percent. 90%: units that carry 90 % of it; "
        "few of them mean that most of the component can go.",
        lines=tuple(named + line for named, _, numbers in every for line in facts(numbers)),
        notes=tuple(named + note for named, analysis, _ in every for note in analysis.notes),
        parts=tuple(parts),
    )


def _retention(analysis: Analysis, named: str) -> Figure:
    charts = tuple(
        Chart(
            title=f"{100 * budget:.0f} % of the MACs kept",
            x=Axis(label="block", whole=True),
            y=Axis(label="units kept, %", low=0, high=100),
            series=by_block(retention(analysis, budget)),
        )
        for budget in BUDGETS
    )
    return Figure(
        title=f"{named}What is kept at a budget",
        text="All Q/K, V, FFN and hidden units ranked together by score per multiply-add; the lines show which share "
        "of each block's units is left when 70, 50 and 30 % of their multiply-adds are kept. A high line is where "
        "the network keeps what matters. It is what the ranking alone would keep; a plan takes whole widths by damage "
        "per cost, as it is after rotation and refit, so that it may keep most where a line here is low.",
        drawings=charts,
        table=table_of("share of the units kept, %", charts),
    )


def by_block(shares: Mapping[str, float]) -> tuple[Series, ...]:
    """Site -> share, as a line for each axis inside blocks that there is; several sites of a block are one point."""
    found = []
    for axis in INNER_AXES:
        points: dict[int, list[float]] = {}
        for name, share in shares.items():
            of, block = site_place(name)
            if of == axis and block is not None:
                points.setdefault(block, []).append(100 * share)
        if points:
            line = tuple((float(block), fmean(points[block])) for block in sorted(points))
            found.append(Series(name=LABELS[axis], points=line))
    return tuple(found)


def checked_panel(checks: Mapping[str, Check]) -> Panel:
    """The three curves of losses, and what the scores foretold."""
    owner = owners(checks)
    return Panel(
        title="Can the ranking be trusted?",
        text="A few sites were cut to a few widths by the ranking, by its reverse, and at random. A ranking that is "
        "worth something loses least, its reverse most.",
        lines=tuple(owner[folder] + line for folder, check in checks.items() for line in check.lines()),
        parts=tuple(_tried(check, owner[folder]) for folder, check in checks.items() if check.tried),
    )


def _tried(check: Check, named: str) -> Figure:
    sites = dict.fromkeys(each.site for each in check.tried)
    rows = tuple(
        (each.site, f"{each.kept}", f"{each.of}", *(f"{value:.3g}" for value in _losses(each).values()))
        for each in check.tried
    )
    return Figure(
        title=f"{named}What is lost without the units that go",
        text=f"Nats per image on {check.samples} images; the scale is logarithmic, and what loses less than "
        f"{_FLOOR:g} is drawn there. Predicted: the sum of the scores of the units that go by the ranking.",
        drawings=tuple(_tried_chart(site, [each for each in check.tried if each.site == site]) for site in sites),
        table=Table(
            title="losses, nats per image", columns=("site", "kept", "of", *_losses(check.tried[0])), rows=rows
        ),
    )


def _tried_chart(site: str, tried: Sequence[Tried]) -> Chart:
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in _losses(tried[0])}
    for each in tried:
        for name, value in _losses(each).items():
            lines[name].append((100 * each.kept / each.of, max(value, _FLOOR)))
    return Chart(
        title=site,
        x=Axis(label="units kept, %", low=0, high=100),
        y=Axis(label="nats lost", log=True),
        series=tuple(Series(name=name, points=tuple(points)) for name, points in lines.items()),
    )


def _losses(tried: Tried) -> dict[str, float]:
    return {
        "by the ranking": tried.ranking,
        "by its reverse": tried.reverse,
        "at random": tried.random,
        "predicted": tried.predicted,
    }
