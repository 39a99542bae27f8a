"""Tables, progress bars and messages of the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def training_progress(epochs: int) -> Iterator[Any]:
    """A bar for the run with the time that is left, from its first word on, and a line for each epoch that is done."""
    columns = (
        TextColumn("epoch {task.fields[epoch]} of {task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        *columns,
        console=console,
        transient=sys.stderr.isatty(),
        disable=not is_main_process(),
        speed_estimate_period=600,
    )

    def report(row: dict[str, float]) -> None:
        epoch = int(row["epoch"])
        if not bar.tasks:
            bar.add_task("", total=epochs, epoch=epoch, loss=row["loss"])
            bar.start()
        bar.update(bar.tasks[0].id, completed=epoch - 1 + row.get("done", 1), epoch=epoch, loss=row["loss"])
        if "done" not in row:
            console.print(
                f"epoch {epoch}: loss {row['loss']:.4f}, top-1 {row['top1']:.2%}, "
                f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
            )

    try:
        yield report
    finally:
        bar.stop()


def print_table(
    found: Any,
    as_json: bool,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    notes: tuple[str, ...] = (),
) -> None:
    """The dataclass `found` as JSON, or the title and `rows` as a table, on stdout; the notes on stderr."""
    import dataclasses

    from rich.table import Table

    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1, default=lambda part: part.model_dump()))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        table = Table(*columns, show_header=any(columns), box=None)
        for row in rows:
            table.add_row(*row)
        console.print(title, soft_wrap=True, markup=False)
        console.print(table)
    for note in notes:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {note}", markup=False)


def is_main_process() -> bool:
    """Whether this process speaks and writes for all that share its job."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def image_progress(what: str) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=sys.stderr.isatty(), disable=not is_main_process()
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Warnings and log lines of the libraries below are theirs to mend; ours go through notes and errors."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("timm").setLevel(logging.ERROR)
        yield
