"""The verb `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prune_realloc.cli.console import image_progress, print_table, quiet_libraries, say
from prune_realloc.cli.networks import compared
from prune_realloc.cli.options import (
    OPENED,
    RUN,
    BatchSize,
    CompareWith,
    Device,
    Json,
    SourceArgs,
    SourceModel,
    Workers,
    data_flags,
    option,
    require_writable,
    source_flags,
)
from prune_realloc.recipe.document import Data, Source


def evaluate(
    network: Annotated[Source, source_flags("ckpt", "model", "pretrained", "ema", "img_size", "model_args", path=True)],
    data: Annotated[
        Data,
        data_flags(
            *OPENED,
            "samples",
            "seed",
            defaults={"split": "validation", "samples": None},
            help={"samples": "How many images. Default: all."},
        ),
    ],
    source: CompareWith = None,
    source_model: SourceModel = None,
    source_arg: SourceArgs = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for eval.json, which `report` shows.")] = None,
    as_json: Json = False,
) -> None:
    """Top-1, top-5 and loss on labelled images; with --source also how far the model is from its source."""
    with quiet_libraries():
        from prune_realloc.core.files import write_file
        from prune_realloc.results.evaluate import EVAL_FILE
        from prune_realloc.results.evaluate import evaluate as run

        if out is not None:
            require_writable(out)
        with image_progress("evaluating") as progress:
            found = run(
                network,
                source=compared(source, source_model, source_arg or []),
                data=data,
                batch_size=batch_size,
                workers=workers,
                device=device,
                progress=progress,
            )
    print_table(found, as_json, found.title, ("", ""), found.rows(), found.notes, second={"source": found.source_taken})
    if out is not None:
        write_file(out / EVAL_FILE, found.file())
        say(f"wrote {out / EVAL_FILE}")
