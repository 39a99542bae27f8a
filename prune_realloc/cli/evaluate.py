"""The verb `eval`."""

from __future__ import annotations

from typing import Annotated

from prune_realloc.cli.console import image_progress, print_table, quiet_libraries
from prune_realloc.cli.networks import compared
from prune_realloc.cli.options import (
    OPENED,
    BatchSize,
    CompareWith,
    Device,
    Json,
    SourceArgs,
    SourceModel,
    Workers,
    data_flags,
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
    as_json: Json = False,
) -> None:
    """Top-1, top-5 and loss on labelled images; with --source also how far the model is from its source."""
    with quiet_libraries():
        from prune_realloc.results.evaluate import evaluate as run

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
    values = [
        ("top-1", found.top1, "{:.2%}"),
        ("top-5", found.top5, "{:.2%}"),
        ("loss, nats", found.loss, "{:.4f}"),
        ("top-1 of the source", found.source_top1, "{:.2%}"),
        ("agreement with the source", found.agreement, "{:.2%}"),
        ("KL(source || model), nats", found.kl, "{:.2g}"),
    ]
    rows = [(name, form.format(value)) for name, value, form in values if value is not None]
    where = f"{found.samples} images of {(found.data or {})['name']}, {data.split}"
    print_table(found, as_json, where, ("", ""), rows, found.notes, second={"source": found.source_taken})
