"""The verb `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_realloc.cli.console import image_progress, print_table, quiet_libraries, say, say_notes, say_taken, show_json
from prune_realloc.cli.options import (
    ALL_DATA,
    ALL_SOURCE,
    PLAN,
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
from prune_realloc.cli.values import parse_numbers
from prune_realloc.core.names import MEASURE_SECONDS

if TYPE_CHECKING:
    from prune_realloc.recipe.document import Recipe

_IMAGES_HELP = {"split": "Part that is examined and refitted on.", "samples": "How many images of it."}


def sweep(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder that `analyze -o` wrote, a recipe (.yaml), or a checkpoint.")
    ],
    *,
    budgets: Annotated[
        str, option(PLAN, "--budgets", help="Shares of the source's MACs, or of what the recipe's budget counts.")
    ] = "0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2",
    source: Annotated[dict[str, Any], source_flags(*ALL_SOURCE, optional=True)],
    data: Annotated[dict[str, Any], data_flags(*ALL_DATA, optional=True, help=_IMAGES_HELP)],
    eval_split: MeasuredSplit = "validation",
    eval_samples: MeasuredSamples = 5000,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    amp: Amp = False,
    timed: Annotated[bool, option(RUN, "--bench/--no-bench", help="Measure latency at every point.")] = False,
    latency_table: LatencyFile = None,
    measure: MeasureLatency = True,
    measure_seconds: MeasureSeconds = MEASURE_SECONDS,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for recipes, numbers and picture.")] = None,
    as_json: Json = False,
) -> None:
    """Accuracy against cost: one examination, then a network planned, cut, refitted and measured at every budget."""
    with quiet_libraries():
        from prune_realloc.recipe.options import with_overrides
        from prune_realloc.results.curve import curve_columns, curve_rows
        from prune_realloc.verbs.sweep import sweep as work

        wanted = with_overrides(_recipe(run), source, data)
        shares = parse_numbers("--budgets", budgets)
        if out is not None:
            require_writable(out)
        with image_progress("images") as progress:
            found = work(
                wanted,
                budgets=shares,
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
                report=lambda point: say(f"budget {point.budget:g} is done ({point.seconds:.1f} s)"),
            )
    title = f"examined once in {found.examination_seconds:.1f} s"
    if as_json:
        show_json(found.content())
        say_taken(found.taken)
        say_notes(found.notes)
    else:
        print_table(found, False, title, curve_columns(), curve_rows(found), found.notes)
    if out is not None:
        say(f"wrote {out}/sweep.json, sweep.png and a recipe for each budget")


def _recipe(run: Path) -> Recipe:
    """What an analysis, a recipe or a checkpoint says of network, images and rules."""
    from prune_realloc.core.analysis import META_FILE, Analysis
    from prune_realloc.recipe.reader import build_recipe, load_recipe
    from prune_realloc.recipe.shipped import is_recipe

    if is_recipe(run):
        return load_recipe(run)
    of_macs = {"budget": {"keep_macs": 0.5}}  # a recipe has one; which share it is, the sweep says
    if (run / META_FILE).exists():
        return build_recipe(Analysis.load(run).as_recipe() | of_macs)
    return build_recipe({"source": {"ckpt": str(run)}} | of_macs)
