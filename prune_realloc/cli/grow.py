"""The verb `grow`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prune_realloc.cli.console import print_table, quiet_libraries, say, training_progress
from prune_realloc.cli.networks import told
from prune_realloc.cli.options import (
    PLAN,
    RUN,
    Config,
    Device,
    EvalSplit,
    Json,
    Preset,
    Settings,
    Teacher,
    TeacherArgs,
    TeacherModel,
    TrainData,
    TrainSamples,
    data_flags,
    option,
)
from prune_realloc.cli.train import train_settings


def grow(
    variant: Annotated[
        str,
        typer.Argument(
            metavar="VARIANT", help="Folder of an EfficientViT (MSRA), as emit writes it, or a checkpoint of one."
        ),
    ],
    *,
    data: TrainData,
    out: Annotated[Path, option(RUN, "-o", "--out", help="Folder of all rounds; the same command goes on from it.")],
    rounds: Annotated[
        int, option(PLAN, "--rounds", help="How many times widths move; one more network is trained.")
    ] = 3,
    preset: Preset = "quick",
    config: Config = None,
    setting: Settings = None,
    teacher: Teacher = None,
    teacher_model: TeacherModel = None,
    teacher_arg: TeacherArgs = None,
    images: Annotated[dict[str, Any], data_flags("split", "data_dir", "class_map", "class_order")],
    eval_split: EvalSplit = "validation",
    samples: TrainSamples = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train an EfficientViT, move its widths to where pruning keeps them, at equal cost, and train it again."""
    with quiet_libraries():
        from prune_realloc.results.trail import trail_columns, trail_rows
        from prune_realloc.verbs.grow import grow as run
        from prune_realloc.verbs.growth import GrowthData

        settings = train_settings(preset, config, setting or [], teacher)
        with training_progress(settings.epochs) as report:
            found = run(
                variant,
                settings,
                GrowthData(data=data, eval_split=eval_split, samples=samples, **images),
                out=out,
                rounds=rounds,
                teacher=teacher,
                teacher_options=told(teacher_model, teacher_arg or [], "teacher-arg"),
                device=device,
                report=report,
            )
    print_table(found, as_json, str(out), trail_columns(), trail_rows(found.rounds), found.notes)
    say(f"wrote {out}/trail.json, trail.md, trail.png and the networks of each round")
