"""How alike heads are, and what each one is worth."""

from __future__ import annotations

from collections.abc import Mapping

from prune_realloc.core.structure import site_place
from prune_realloc.pages.content import Axis, Chart, Figure, Heat, Panel, Series, Table
from prune_realloc.reporting.tables import owners
from prune_realloc.results.alike import COLUMNS, BlockHeads, Heads

_DRAWN_BLOCKS, _DRAWN_HEADS = 24, 16
"""So many matrices, and so large ones, can be read on one page."""


def heads_panel(found: Mapping[str, Heads]) -> Panel:
    """Similarities, removal losses and what the planner would keep, of each run."""
    owner = owners(found)
    parts = [part for folder, heads in found.items() for part in _parts(heads, owner[folder])]
    return Panel(
        title="Heads",
        text="Heads of one block that look at the same places (alike near 1) do the same work twice. What one is "
        "worth is what the network loses without it; a loss below zero means that it does better without. planned: "
        "the heads that the planner keeps where half of what all heads cost must go, by an analysis of these images "
        "with the scorer fisher.",
        notes=tuple(owner[folder] + note for folder, heads in found.items() for note in heads.notes),
        parts=tuple(parts),
    )


def _parts(heads: Heads, named: str) -> list[Figure | Table]:
    drawn = [each for each in heads.blocks if _matrix(each) and each.heads <= _DRAWN_HEADS][:_DRAWN_BLOCKS]
    return [_summary(heads, named), *([_matrices(drawn, len(heads.blocks), named)] if drawn else [])]


def _summary(heads: Heads, named: str) -> Figure:
    """Over the blocks: similarities, and the span of the losses."""
    lines = {
        f"{what}, {how}": tuple(
            (_block(each), getattr(likeness, attribute))
            for each in heads.blocks
            if (likeness := each.maps if what == "maps" else each.outputs) is not None
        )
        for what in ("maps", "outputs")
        for how, attribute in (("mean", "mean"), ("most alike", "largest"))
    }
    alike = Chart(
        title="alike",
        x=Axis(label="block", whole=True),
        y=Axis(label="cosine similarity"),
        series=tuple(Series(name=name, points=points) for name, points in lines.items() if points),
    )
    lost = Chart(
        title="lost without one",
        x=Axis(label="block", whole=True),
        y=Axis(label="nats per image"),
        series=(
            Series(name="least lost", points=tuple((_block(each), min(each.removal)) for each in heads.blocks)),
            Series(name="most lost", points=tuple((_block(each), max(each.removal)) for each in heads.blocks)),
        ),
    )
    return Figure(
        title=f"{named}Heads by block",
        text=f"{heads.title[0].upper()}{heads.title[1:]}.",
        drawings=(alike, lost),
        table=Table(title="every block", columns=COLUMNS, rows=tuple(heads.rows())),
    )


def _block(each: BlockHeads) -> float:
    block = site_place(each.site)[1]
    assert block is not None
    return float(block)


def _matrices(drawn: list[BlockHeads], count: int, named: str) -> Figure:
    heads = max(each.heads for each in drawn)
    rows = tuple(
        (each.site, str(head), *(f"{value:.2f}" for value in row), *[""] * (heads - each.heads))
        for each in drawn
        for head, row in enumerate(_matrix(each))
    )
    kind = "attention maps" if drawn[0].maps else "outputs"
    return Figure(
        title=f"{named}Every head beside every other",
        text=f"Cosine similarity of {kind}; the full colour is alike, none is not. {len(drawn)} of {count} blocks.",
        drawings=tuple(Heat(title=each.site, matrix=_matrix(each)) for each in drawn),
        table=Table(title=kind, columns=("site", "head", *map(str, range(heads))), rows=rows),
    )


def _matrix(each: BlockHeads) -> tuple[tuple[float, ...], ...]:
    likeness = each.maps or each.outputs
    return () if likeness is None else likeness.matrix
