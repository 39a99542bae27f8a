"""The verb `apply`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from prune_realloc.cli.console import image_progress, quiet_libraries
from prune_realloc.cli.options import (
    DATA,
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
    Mean,
    Model,
    ModelArg,
    Pretrained,
    Std,
    Workers,
    option,
    parse_pairs,
    preprocess_overrides,
    require_writable,
)

if TYPE_CHECKING:
    from prune_realloc.verbs.apply import Applied


def apply(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, planned or not.")],
    ckpt: Ckpt = None,
    model: Model = None,
    pretrained: Pretrained = False,
    ema: Ema = False,
    img_size: ImgSize = None,
    model_arg: ModelArg = None,
    data: Data = None,
    split: Annotated[str | None, option(DATA, "--split", help="Part that layers are refitted on.")] = None,
    data_dir: DataDir = None,
    labels: Annotated[bool | None, option(DATA, "--labels/--no-labels", help="Use the data's labels or not.")] = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    crop_pct: CropPct = None,
    eval_split: Annotated[str, option(DATA, "--eval-split", help="Part that is measured on.")] = "validation",
    eval_samples: Annotated[int, option(DATA, "--eval-samples", help="How many images of it.")] = 5000,
    samples: Annotated[int | None, option(RUN, "--samples", help="How many images to refit on.")] = None,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    amp: Amp = False,
    seed: Annotated[int | None, option(RUN, "--seed", help="Chooses the images and every draw.")] = None,
    timed: Annotated[bool, option(RUN, "--bench/--no-bench", help="Measure latency before and after.")] = True,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for the pruned network.")] = None,
    as_json: Json = False,
) -> None:
    """Cut a network as a recipe says, refit what is left, and show before and after.

    Without --ckpt: the recipe's own source. What is given here overrides the recipe.
    """
    with quiet_libraries():
        from prune_realloc.recipe.reader import build_recipe, load_recipe
        from prune_realloc.verbs.apply import apply as run

        values = load_recipe(recipe).model_dump(exclude_none=True)
        source = {
            "ckpt": ckpt,
            "model": model,
            "pretrained": pretrained or None,
            "ema": ema or None,
            "img_size": img_size,
            "model_args": parse_pairs(model_arg) or None,
        }
        images = {
            "name": data,
            "split": split,
            "data_dir": data_dir,
            "labels": labels,
            "samples": samples,
            "seed": seed,
            "preprocess": preprocess_overrides(mean, std, interpolation, crop_pct) or None,
        }
        # another checkpoint, other images: what the recipe says of its own no longer holds
        for section, own, new in (
            ("source", ("pretrained", "ema"), ckpt),
            ("data", ("data_dir", "labels", "preprocess"), data),
        ):
            for key in own if new is not None else ():
                values[section].pop(key, None)
        for section, given in (("source", source), ("data", images)):
            values[section] |= {key: value for key, value in given.items() if value is not None}
        if out is not None:
            require_writable(out)
        with image_progress("images") as progress:
            done = run(
                build_recipe(values),
                out=out,
                eval_split=eval_split,
                eval_samples=eval_samples,
                batch_size=batch_size,
                workers=workers,
                device=device,
                amp=amp,
                timed=timed,
                progress=progress,
            )
    show_outcome(done, out, as_json)


def show_outcome(done: Applied, out: Path | None, as_json: bool) -> None:
    from prune_realloc.results.tables import outcome_facts, outcome_table, plan_facts, plan_table

    numbers = done.summary()
    if as_json:
        print(json.dumps(numbers, indent=1))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        console.print(plan_table(done.recipe))
        for line in plan_facts(done.recipe):
            console.print(line, soft_wrap=True, markup=False)
        console.print()
        console.print(outcome_table(numbers))
        for line in outcome_facts(numbers):
            console.print(line, soft_wrap=True, markup=False)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in done.notes:
        messages.print(f"note: {note}", markup=False)
    if out is not None:
        messages.print(
            f"wrote {out}; once prune_realloc is imported, timm.create_model('local-dir:{out}', "
            "pretrained=True) loads it",
            markup=False,
        )
