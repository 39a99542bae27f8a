"""The verb `report`."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from prune_realloc.cli.console import quiet_libraries, say
from prune_realloc.core.errors import InputError

Opened = Annotated[bool, typer.Option("--open", help="Show the report in the browser.")]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that the verbs wrote, and all below.")],
    form: Annotated[str, typer.Option("--format", help="html, md or json.")] = "html",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File. Default: report.html in the first RUN; md and json are printed."),
    ] = None,
    opened: Opened = False,
) -> None:
    """One page that tells what runs have shown, to colleagues who have never used this: light and dark, printable.

    It needs no other file and no network. What the folders do not hold is named, with the command that makes it.
    """
    with quiet_libraries():
        from prune_realloc.core.files import make_folder, write_file
        from prune_realloc.pages.writers import FORMATS
        from prune_realloc.reporting.report import DAMAGED
        from prune_realloc.reporting.report import report as run

        if form not in FORMATS:
            raise InputError(f"format {form!r} is unknown; give one of {', '.join(FORMATS)}")
        if opened and form != "html":
            raise InputError(f"open: a browser shows html, not {form}; leave --open or --format out")
        page = run(runs)
        content = FORMATS[form](page)
    place = runs[0] / "report.html" if out is None and form == "html" else out
    if place is None:
        sys.stdout.write(content.decode())
    else:
        make_folder(place.parent)
        write_file(place, content)
        say(f"wrote {place}")
    if place is not None and opened:
        open_page(place)
    if damaged := [missing.why for missing in page.missing if missing.what == DAMAGED]:
        more = f" (and {len(damaged) - 1} more, which it names)" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0]}; the page shows the rest{more}")


def open_page(place: Path) -> None:
    """Show a page in the browser, or say that there is none."""
    if not webbrowser.open(place.resolve().as_uri()):
        say(f"note: no browser was found; open {place.resolve().as_uri()}")
