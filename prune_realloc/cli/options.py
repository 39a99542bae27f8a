"""The command line's options: each is described once and used by every verb that has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from prune_realloc.cli.console import said_anew
from prune_realloc.cli.flags import Flags
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import make_folder, write_file
from prune_realloc.core.names import STATE_FILE
from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Data, Source
from prune_realloc.recipe.document import Scorer as ScorerName
from prune_realloc.recipe.target import Target

if TYPE_CHECKING:
    from prune_realloc.results.latency_tables import Tables

MODEL, DATA, PLAN, RUN = "Model", "Data", "Plan", "Run"


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    """A flag under one of the headings of `--help`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def per_axis(flag: str, help: str) -> Any:
    """A flag of `plan` that speaks of one axis."""
    return option(PLAN, flag, help=f"{help} May be repeated.", metavar="AXIS=VALUE")


def source_flags(*fields: str, **more: Any) -> Flags:
    """How the network is opened."""
    return Flags(part=Source, fields=fields, panel=MODEL, **more)


def data_flags(*fields: str, **more: Any) -> Flags:
    """Which images, and how they are prepared."""
    return Flags(part=Data, fields=fields, panel=DATA, panels={"samples": RUN, "seed": RUN}, **more)


def target_flags(panel: str, *fields: str, **more: Any) -> Flags:
    """What `emit` is asked for."""
    return Flags(part=Target, fields=fields, panel=panel, optional=True, **more)


ALL_SOURCE = ("ckpt", "model", "pretrained", "ema", "img_size", "model_args")
OPENED = ("name", "split", "data_dir", "labels", "class_map", "class_order", "preprocess")
ALL_DATA = (*OPENED, "samples", "seed")
BUDGET = Flags(part=Budget, fields=tuple(Budget.model_fields), panel=PLAN)

CompareWith = Annotated[
    str | None,
    option(MODEL, "--source", help="Checkpoint of the network it was made from; 'demo' is the shipped ViT."),
]
SourceArgs = Annotated[
    list[str] | None,
    option(MODEL, "--source-arg", metavar="KEY=VALUE", help="What --model-arg is, of the source; may be repeated."),
]
BatchSize = Annotated[int, option(RUN, "--batch-size", help="Images at a time.")]
Workers = Annotated[int, option(RUN, "--workers", help="Processes that read images.")]
Device = Annotated[str, option(RUN, "--device", help="auto, cpu or cuda.")]
Amp = Annotated[bool, option(RUN, "--amp", help="Score in bfloat16 autocast.")]
Seed = Annotated[int, option(RUN, "--seed", help="Chooses the images and every draw.")]
Json = Annotated[bool, option(RUN, "--json", help="Print the numbers as JSON instead of tables.")]
TrainData = Annotated[
    str, option(DATA, "--data", help="Folder of images, 'demo', or a timm data set; labels only without --teacher.")
]
EvalSplit = Annotated[
    str, option(DATA, "--eval-split", help="Part that is evaluated; held-out: what --samples leaves of --split.")
]
MeasuredSplit = Annotated[str, option(DATA, "--eval-split", help="Part that is measured on.")]
MeasuredSamples = Annotated[int, option(DATA, "--eval-samples", help="How many images of it.")]
TrainSamples = Annotated[int | None, option(DATA, "--samples", help="Train on so many images. Default: all.")]
Preset = Annotated[str, option(PLAN, "--preset", help="quick, paper or recover.")]
Config = Annotated[Path | None, option(PLAN, "--config", help="YAML file of settings, over the preset.")]
Settings = Annotated[
    list[str] | None, option(PLAN, "--set", help="KEY=VALUE over both, such as epochs=30; may be repeated.")
]
Teacher = Annotated[
    str | None, option(PLAN, "--teacher", help="Checkpoint, 'demo', or timm's name of a network to distil from.")
]
SourceModel = Annotated[
    str | None, option(MODEL, "--source-model", help="What --model is, of the source: timm's name of its architecture.")
]
TeacherModel = Annotated[str | None, option(PLAN, "--teacher-model", help="What --model is, of the teacher.")]
TeacherArgs = Annotated[
    list[str] | None,
    option(PLAN, "--teacher-arg", metavar="KEY=VALUE", help="What --model-arg is, of the teacher; may be repeated."),
]
LatencyFile = Annotated[
    Path | None,
    option(PLAN, "--latency-table", help="Table of times, for the device that it was measured on. Default: the cache."),
]
MeasureLatency = Annotated[
    bool, option(PLAN, "--measure/--no-measure", help="Measure a table of times where there is none of this machine.")
]
MeasureSeconds = Annotated[float, option(PLAN, "--measure-seconds", help="What that may take.")]
*_MOST, _LAST = get_args(ScorerName)
Scorer = Annotated[str, option(RUN, "--scorer", help=f"{', '.join(_MOST)} or {_LAST}.")]


def latency_tables(file: Path | None, measure: bool, seconds: float) -> Tables:
    """What the flags above say of the latency table."""
    from prune_realloc.results.latency_tables import Tables

    return Tables(file=file, measure=measure, seconds=seconds, progress=said_anew("measuring times"))


def require_writable(folder: Path) -> None:
    """Raises InputError where a folder cannot be written: before the work, not after it."""
    make_folder(folder)
    if (folder / STATE_FILE).exists():
        raise InputError(f"output {str(folder)!r} holds a training run; choose another folder")
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()
