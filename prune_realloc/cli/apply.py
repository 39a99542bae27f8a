"""The verb `apply`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    LatencyFile,
    MeasuredSamples,
    MeasuredSplit,
    MeasureLatency,
    MeasureSeconds,
    Workers,
    data_flags,
    latency_tables,
    option,
    require_writable,
    source_flags,
)
from prune_realloc.cli.plan import show_plan
from prune_realloc.core.names import MEASURE_SECONDS
from prune_realloc.recipe.shipped import beginning

if TYPE_CHECKING:
    from prune_realloc.verbs.applied import Applied

_IMAGES_HELP = {"split": "Part that layers are refitted on.", "samples": "How many images to refit on."}


def apply(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A recipe, planned or not, or the name of a shipped one.", autocompletion=beginning
        ),
    ],
    source: Annotated[dict[str, Any], source_flags(*ALL_SOURCE, optional=True)],
    data: Annotated[dict[str, Any], data_flags(*ALL_DATA, optional=True, help=_IMAGES_HELP)],
    tune: Annotated[
        int | None, option(RUN, "--tune", metavar="STEPS", help="Steps of tuning for each part of the network.")
    ] = None,
    eval_split: MeasuredSplit = "validation",
    eval_samples: MeasuredSamples = 5000,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    amp: Amp = False,
    timed: Annotated[bool, option(RUN, "--bench/--no-bench", help="Measure latency before and after.")] = True,
    latency_table: LatencyFile = None,
    measure: MeasureLatency = True,
    measure_seconds: MeasureSeconds = MEASURE_SECONDS,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for the pruned network.")] = None,
    as_json: Json = False,
) -> None:
    """Cut a network as a recipe says, refit what is left, and show before and after.

    Without --ckpt: the recipe's own source. What is given here overrides the recipe.
    """
    with quiet_libraries():
        from prune_realloc.recipe.options import with_overrides
        from prune_realloc.recipe.reader import load_recipe
        from prune_realloc.verbs.apply import apply as run

        wanted = with_overrides(load_recipe(recipe), source, data, {} if tune is None else {"tune": tune})
        if out is not None:
            require_writable(out)
        with image_progress("images") as progress:
            done = run(
                wanted,
                out=out,
                eval_split=eval_split,
                eval_samples=eval_samples,
                batch_size=batch_size,
                workers=workers,
                device=device,
                amp=amp,
                timed=timed,
                tables=latency_tables(latency_table, measure, measure_seconds),
                progress=progress,
            )
    show_outcome(done, out, as_json)


def show_outcome(done: Applied, out: Path | None, as_json: bool) -> None:
    """Print what became of a network, before and after."""
    from prune_realloc.results.tables import outcome_facts, outcome_table

    numbers = done.summary()
    if as_json:
        show_json(numbers)
    else:
        show_plan(done.recipe, measured=numbers["kl"] is not None)
        show_lines("")
        show_tables(outcome_table(numbers))
        show_lines(*outcome_facts(numbers))
    say_taken(done.taken)
    say_notes(done.notes)
    if out is not None:
        say(
            f"wrote {out}; once prune_realloc is imported, timm.create_model('local-dir:{out}', "
            "pretrained=True) loads it"
        )
