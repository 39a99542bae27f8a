"""The verb `analyze`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

        if out is not None:
            require_writable(out)
        with process_group(pick_device(device)) as speaks, image_progress("scoring", speaks) as progress:
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
        if tried:
            _check(source, data, found, out, batch_size=batch_size, workers=workers, device=device)
        elif out is not None:
            (out / "check.json").unlink(missing_ok=True)  # of the scores that were there before
        show_analysis(found, out, as_json)


def _check(source: Source, data: Data, found: Analysis, out: Path | None, **reading: Any) -> None:
    """Say on stderr whether the ranking can be trusted, and write what was tried as `check.json`."""
    from prune_realloc.core.files import write_file
    from prune_realloc.verbs.check import check

    checked = check(source, data, found, **reading)
    for line in checked.lines():
        say(line)
    for each in checked.tried:
        say(
            f"  {each.site}, {each.kept} of {each.of} kept: {each.ranking:.2g} nats lost by the ranking (scores say "
            f"{each.predicted:.2g}), {each.reverse:.2g} by its reverse, {each.random:.2g} at random"
        )
    if out is not None:
        numbers = dataclasses.asdict(checked) | {"trusted": checked.trusted}
        write_file(out / "check.json", (json.dumps(numbers, indent=1) + "\n").encode())


def show_analysis(found: Analysis, out: Path | None, as_json: bool) -> None:
    """Print an analysis, and write it with its picture and its page."""
    from prune_realloc.results.page import report_files
    from prune_realloc.results.summary import summary
    from prune_realloc.results.tables import component_table, facts, site_table

    numbers = summary(found)
    if out is not None:
        found.save(out, report_files(found))
    if as_json:
        show_json(numbers)
    else:
        show_tables(site_table(numbers), component_table(numbers))
        show_lines("", *facts(numbers))
    say_taken(found.taken)
    say_notes(found.notes)
    if out is not None:
        say(f"wrote {out}/analysis.safetensors, analysis.json, retention.png and report.html")
