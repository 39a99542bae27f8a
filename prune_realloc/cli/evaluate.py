"""The verb `eval`."""

from __future__ import annotations

from typing import Annotated

from prune_realloc.cli.console import image_progress, print_table, quiet_libraries
from prune_realloc.cli.options import (
    RUN,
    BatchSize,
    CheckpointPath,
    CropPct,
    Data,
    DataDir,
    Device,
    Ema,
    ImgSize,
    Interpolation,
    Json,
    Labels,
    Mean,
    Model,
    ModelArg,
    Pretrained,
    Seed,
    Source,
    Split,
    Std,
    Workers,
    option,
    parse_pairs,
    preprocess_overrides,
)


def evaluate(
    ckpt: CheckpointPath = None,
    model: Model = None,
    pretrained: Pretrained = False,
    ema: Ema = False,
    img_size: ImgSize = None,
    model_arg: ModelArg = None,
    source: Source = None,
    data: Data = None,
    split: Split = "validation",
    data_dir: DataDir = None,
    labels: Labels = True,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    crop_pct: CropPct = None,
    samples: Annotated[int | None, option(RUN, "--samples", help="How many images. Default: all.")] = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Top-1, top-5 and loss on labelled images; with --source also how far the model is from its source."""
    with quiet_libraries():
        from prune_realloc.results.evaluate import evaluate as run

        preprocess = preprocess_overrides(mean, std, interpolation, crop_pct)
        with image_progress("evaluating") as progress:
            found = run(
                model,
                ckpt=ckpt,
                pretrained=pretrained,
                ema=ema,
                img_size=img_size,
                model_args=parse_pairs(model_arg),
                source=source,
                data=data,
                split=split,
                data_dir=data_dir,
                labels=labels,
                preprocess=preprocess,
                samples=samples,
                batch_size=batch_size,
                workers=workers,
                device=device,
                seed=seed,
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
    where = f"{found.samples} images of {(found.data or {})['name']}, {split}"
    print_table(found, as_json, where, ("", ""), rows, found.notes)
