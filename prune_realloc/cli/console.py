"""Tables, lines, progress bars and notes of the command line; whatever they hold is shown as it is written."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from prune_realloc.core.errors import one_line
from prune_realloc.core.taken import taken_from, taken_lines
from prune_realloc.training.measures import MEASURES, measure_of

Facts = Mapping[str, Mapping[str, Any]]
"""What a run took, ready for JSON, as `core.taken.plain_taken` has it."""


_NOW_AND_THEN = 60.0
"""Seconds between two lines where they cannot be written over."""
_LINE_BEFORE = "\x1b[1A\x1b[2K"
"""To a terminal: the line before is taken back."""


def _console(*, stderr: bool, width: int | None = None) -> Console:
    """Square brackets and colons in paths, class names and notes are the user's, never markup or emoji."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def _stdout(width: int) -> Console:
    return _console(stderr=False, width=None if sys.stdout.isatty() else width)


def show_tables(*tables: Table, width: int = 100) -> None:
    """Tables on stdout, a line between them; `width` where stdout is no terminal."""
    console = _stdout(width)
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(table)


def show_lines(*lines: str) -> None:
    """Lines on stdout, which a terminal may fold and nobody cuts."""
    for line in lines:
        _stdout(100).print(line, soft_wrap=True)


def show_json(values: Any) -> None:
    """Numbers on stdout, for machines."""
    print(json.dumps(values, indent=1, default=lambda part: part.model_dump()))


def say(line: str) -> None:
    """A line on stderr, one whatever the names in it hold."""
    _console(stderr=True).print(one_line(line), soft_wrap=True)


def said_anew(what: str) -> Callable[[str], None]:
    """Says how far something is that takes minutes: on a terminal in one line, written over, else by the minute."""
    last: list[float] = []

    def tell(how_far: str) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if last and terminal:
            sys.stderr.write(_LINE_BEFORE)
        if terminal or not last or now - last[0] >= _NOW_AND_THEN:
            last[:] = [now]
            say(f"{what}: {how_far}")

    return tell


def say_notes(notes: Iterable[str]) -> None:
    """What must be known of a result, on stderr."""
    for note in notes:
        say(f"note: {note}")


def say_taken(taken: Facts | None, second: Mapping[str, Facts | None] | None = None) -> None:
    """What a run went by on stderr, in a line for each thing that tells it.

    Args:
        second: the same of a second network, which has lines of its own, by what it is to the first: `source`.
    """
    for name, facts in {"": taken, **(second or {})}.items():
        for line in taken_lines(taken_from(facts or {}), f"the {name}" if name else ""):
            say(line)


def print_table(
    found: Any,
    as_json: bool,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    notes: tuple[str, ...] = (),
    taken: Facts | None = None,
    second: Mapping[str, Facts | None] | None = None,
) -> None:
    """The dataclass `found` as JSON, or the title and `rows` as a table, on stdout; the notes on stderr.

    Args:
        taken: what the run went by; None: `found` knows it, or there is nothing to say.
        second: as in `say_taken`.
    """
    taken = taken or getattr(found, "taken", None)
    if as_json:
        named = {"taken": taken, **{f"{name}_taken": facts for name, facts in (second or {}).items()}}
        show_json(dataclasses.asdict(found) | {name: facts for name, facts in named.items() if facts})
    else:
        table = Table(*columns, show_header=any(columns), box=None)
        for row in rows:
            table.add_row(*row)
        show_lines(title)
        show_tables(table)
    say_taken(taken, second)
    say_notes(notes)


@contextmanager
def image_progress(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar of images done, on stderr; `shown` is false in all but one of several processes."""
    columns = (
        _text("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _text("images"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = _console(stderr=True)
    with Progress(*columns, console=console, transient=sys.stderr.isatty(), disable=not shown) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_progress(epochs: int, shown: bool = True) -> Iterator[Callable[[dict[str, float]], None]]:
    """A bar for the run with the time that is left, from its first word on, and a line for each epoch that is done."""
    columns = (
        _text("epoch {task.fields[epoch]} of {task.total}"),
        BarColumn(),
        _text("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = _console(stderr=True)
    bar = Progress(
        *columns,
        console=console,
        transient=sys.stderr.isatty(),
        disable=not shown,
        speed_estimate_period=600,
    )

    def report(row: dict[str, float]) -> None:
        epoch = int(row["epoch"])
        if not bar.tasks:
            bar.add_task("", total=epochs, epoch=epoch, loss=row["loss"])
            bar.start()
        bar.update(bar.tasks[0].id, completed=epoch - 1 + row.get("done", 1), epoch=epoch, loss=row["loss"])
        if "done" not in row:
            name = measure_of(row)
            console.print(
                f"epoch {epoch}: loss {row['loss']:.4f}, {MEASURES[name].text} {row[name]:{MEASURES[name].form}}, "
                f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
            )

    try:
        yield report
    finally:
        if bar.tasks:  # one that was never shown would still print an empty line
            bar.stop()


def _text(form: str) -> TextColumn:
    return TextColumn(form, markup=False)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Warnings and log lines of the libraries below are theirs to mend; ours go through notes and errors."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("timm")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
