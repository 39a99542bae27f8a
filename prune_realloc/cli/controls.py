"""The table of `compare --controls`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.table import Table

from prune_realloc.cli.console import say_notes, show_json, show_lines, show_tables
from prune_realloc.training.group import accuracy_cells

if TYPE_CHECKING:
    from prune_realloc.training.controls import Claim, ControlSet, Row


def show_claim(found: Claim, as_json: bool) -> None:
    """The claiming group and its controls, sets of controls, and in the last line what follows."""
    if as_json:
        show_json(dataclasses.asdict(found))
        return
    name = found.claiming.name
    heads = ("", "seeds", "top-1 %", "95 %", f"{name} minus it, points", "95 %", "over zero", "MACs", "params")
    tables = [_table(heads, [_row(row) for row in (found.claiming, *found.controls)])]
    if found.sets:
        of_sets = ("", "controls", "mean top-1 %", "best", f"at or above {name}", f"{name}'s place", "p")
        tables.append(_table(of_sets, [_set_row(controls) for controls in found.sets]))
    show_tables(*tables)
    show_lines("", found.verdict)
    say_notes(found.notes)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    return table


def _row(row: Row) -> tuple[str, ...]:
    return (
        *accuracy_cells(row),
        {None: "", True: "yes", False: "no"}[row.over_zero],
        f"{row.macs:,}",
        f"{row.params:,}",
    )


def _set_row(found: ControlSet) -> tuple[str, ...]:
    return (
        found.name,
        str(len(found.names)),
        f"{100 * found.mean:.2f}",
        f"{100 * found.best_mean:.2f}, {found.best}",
        str(found.at_or_above),
        found.place,
        f"{found.p:.2g}",
    )
