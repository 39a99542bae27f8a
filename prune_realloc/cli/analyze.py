"""The verb `analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prune_realloc.cli.console import (
    image_progress,
    quiet_libraries,
    say,
    say_notes,
    say_taken,
    show_json,
    show_lines,
    show_tables,
)
from prune_realloc.cli.options import (
    ALL_DATA,
    ALL_SOURCE,
    RUN,
    Amp,
    BatchSize,
    Device,
    Json,
    Scorer,
    Workers,
    data_flags,
    option,
    require_writable,
    source_flags,
)
from prune_realloc.recipe.document import Data, Source

if TYPE_CHECKING:
    from prune_realloc.core.analysis import Analysis
    from prune_realloc.results.checked import Check
    from prune_realloc.verbs.check import Checkable


def analyze(
    source: Annotated[Source, source_flags(*ALL_SOURCE, path=True)],
    data: Annotated[Data, data_flags(*ALL_DATA)],
    scorer: Scorer = "fisher",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    amp: Amp = False,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for analysis, picture and report.")] = None,
    tried: Annotated[
        bool, option(RUN, "--check", help="Mask a few sites by the ranking, its reverse and at random; see check.json.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score every unit of a trained ViT on real images, and show per block and component what matters.

    On several processes: accelerate launch -m prune_realloc analyze ...

    Without a checkpoint and --model: the ViT and the images that the package ships.
    """
    with quiet_libraries():
        from prune_realloc.runtime.device import pick_device
        from prune_realloc.runtime.distributed import process_group
        from prune_realloc.verbs.analyze import analyze as run
        from prune_realloc.verbs.check import checkable

        if out is not None:
            require_writable(out)
        with process_group(pick_device(device)) as speaks, image_progress("scoring", speaks) as progress:
            opened = checkable(source, data, batch_size=batch_size, workers=workers) if tried else None
            found = run(
                source,
                data=data,
                scorer=scorer,
                batch_size=batch_size,
                workers=workers,
                device=device,
                amp=amp,
                progress=progress,
            )
        if not speaks:
            return
        show_analysis(found, out, as_json, None if opened is None else checked_ranking(opened, found, device))


def checked_ranking(opened: Checkable, found: Analysis, device: str = "auto") -> Check:
    """Try the ranking of an analysis, and say on stderr whether it can be trusted."""
    from prune_realloc.verbs.check import check

    checked = check(opened, found, device=device)
    for line in checked.lines():
        say(line)
    for each in checked.tried:
        say(
            f"  {each.site}, {each.kept} of {each.of} kept: {each.ranking:.2g} nats lost by the ranking (scores say "
            f"{each.predicted:.2g}), {each.reverse:.2g} by its reverse, {each.random:.2g} at random"
        )
    return checked


def show_analysis(found: Analysis, out: Path | None, as_json: bool, checked: Check | None = None) -> None:
    """Print an analysis, and write it with what was tried of its ranking, its picture and its page."""
    from prune_realloc.reporting.report import report_files
    from prune_realloc.results.checked import CHECK_FILE
    from prune_realloc.results.summary import summary
    from prune_realloc.results.tables import component_table, facts, site_table

    numbers = summary(found)
    if out is not None:
        (out / CHECK_FILE).unlink(missing_ok=True)  # of the scores that were there before
        files = {} if checked is None else {CHECK_FILE: checked.file()}
        found.save(out, files | report_files(found, out, checked))
    if as_json:
        show_json(numbers)
    else:
        show_tables(site_table(numbers), component_table(numbers))
        show_lines("", *facts(numbers))
    say_taken(found.taken)
    say_notes(found.notes)
    if out is not None:
        say(f"wrote {out}/analysis.safetensors, analysis.json, retention.png and report.html")
