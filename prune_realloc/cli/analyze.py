"""The verb `analyze`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from prune_realloc.cli.console import image_progress, is_main_process, quiet_libraries
from prune_realloc.cli.options import (
    RUN,
    Amp,
    BatchSize,
    Ckpt,
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
    Scorer,
    Seed,
    Split,
    Std,
    Workers,
    option,
    parse_pairs,
    preprocess_overrides,
    require_writable,
)

if TYPE_CHECKING:
    from prune_realloc.core.analysis import Analysis


def analyze(
    ckpt: Ckpt = None,
    model: Model = None,
    pretrained: Pretrained = False,
    ema: Ema = False,
    img_size: ImgSize = None,
    model_arg: ModelArg = None,
    data: Data = None,
    split: Split = "train",
    data_dir: DataDir = None,
    labels: Labels = True,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    crop_pct: CropPct = None,
    scorer: Scorer = "fisher",
    samples: Annotated[int, option(RUN, "--samples", help="How many images.")] = 1024,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    amp: Amp = False,
    seed: Seed = 0,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for analysis, picture and report.")] = None,
    as_json: Json = False,
) -> None:
    """Score every unit of a trained ViT on real images, and show per block and component what matters.

    On several processes: accelerate launch -m prune_realloc analyze ...

    Without --ckpt and --model: the ViT and the images that the package ships.
    """
    with quiet_libraries():
        from prune_realloc.runtime.device import pick_device
        from prune_realloc.runtime.distributed import process_group
        from prune_realloc.verbs.analyze import analyze as run

        preprocess = preprocess_overrides(mean, std, interpolation, crop_pct)
        if out is not None:
            require_writable(out)
        with process_group(pick_device(device)), image_progress("scoring") as progress:
            found = run(
                model,
                ckpt=ckpt,
                pretrained=pretrained,
                ema=ema,
                img_size=img_size,
                model_args=parse_pairs(model_arg),
                data=data,
                split=split,
                data_dir=data_dir,
                labels=labels,
                preprocess=preprocess,
                scorer=scorer,
                samples=samples,
                batch_size=batch_size,
                workers=workers,
                device=device,
                amp=amp,
                seed=seed,
                progress=progress,
            )
        if is_main_process():
            show_analysis(found, out, as_json)


def show_analysis(found: Analysis, out: Path | None, as_json: bool) -> None:
    from prune_realloc.results.page import write_report
    from prune_realloc.results.summary import summary
    from prune_realloc.results.tables import component_table, facts, site_table

    numbers = summary(found)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    if out is not None:
        found.save(out)
        page = write_report(found, out)
    if as_json:
        print(json.dumps(numbers, indent=1))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        console.print(site_table(numbers))
        console.print()
        console.print(component_table(numbers))
        console.print()
        for line in facts(numbers):
            console.print(line, soft_wrap=True)
    for note in found.notes:
        messages.print(f"note: {note}")
    if out is not None:
        messages.print(f"wrote {out}/analysis.safetensors, analysis.json, retention.png and {page}")
