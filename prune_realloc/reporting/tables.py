"""The terminal's tables on a page, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable

import rich.table

from prune_realloc.pages.content import Table


def on_page(table: rich.table.Table, owner: str = "", *, total: bool = False) -> Table:
    """The same columns and cells.

    Args:
        owner: what stands before its title.
        total: its last row is the sum of the others.
    """
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    headings = tuple(str(column.header) for column in table.columns)
    return Table(title=f"{owner}{table.title}", columns=headings, rows=tuple(zip(*columns, strict=True)), total=total)


def owners(folders: Iterable[str]) -> dict[str, str]:
    """Folder -> what stands before a sentence or a title of it: nothing where there is one folder only."""
    found = list(folders)
    return {folder: f"{folder}: " if len(found) > 1 else "" for folder in found}
