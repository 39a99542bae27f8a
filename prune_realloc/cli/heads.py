"""The verb `heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prune_realloc.cli.console import print_table, quiet_libraries, say
from prune_realloc.cli.options import (
    ALL_SOURCE,
    OPENED,
    RUN,
    BatchSize,
    Device,
    Json,
    Workers,
    data_flags,
    option,
    require_writable,
    source_flags,
)
from prune_realloc.recipe.document import Data, Source


def heads(
    source: Annotated[Source, source_flags(*ALL_SOURCE, path=True)],
    data: Annotated[
        Data,
        data_flags(*OPENED, "samples", "seed", defaults={"samples": 256}, help={"samples": "How many images."}),
    ],
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for heads.json, which `report` shows.")] = None,
    as_json: Json = False,
) -> None:
    """How alike the heads of each block are, and what removing each one costs on real images.

    The planner keeps the heads of the last column where half of what all heads cost must go.

    Without a checkpoint and --model: the ViT and the images that the package ships.
    """
    with quiet_libraries():
        from prune_realloc.core.files import write_file
        from prune_realloc.results.alike import COLUMNS, HEADS_FILE
        from prune_realloc.verbs.heads import heads as run

        if out is not None:
            require_writable(out)
        found = run(source, data=data, batch_size=batch_size, workers=workers, device=device)
    print_table(found, as_json, found.title, COLUMNS, found.rows(), found.notes)
    if out is not None:
        write_file(out / HEADS_FILE, found.file())
        say(f"wrote {out / HEADS_FILE}")
