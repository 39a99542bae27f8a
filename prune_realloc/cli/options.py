"""The command line's options: each is spelled out once and used by every verb that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prune_realloc.core.errors import InputError

MODEL, DATA, PLAN, RUN = "Model", "Data", "Plan", "Run"


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def per_axis(flag: str, help: str) -> Any:
    return typer.Option(flag, help=f"{help} May be repeated.", rich_help_panel=PLAN, metavar="AXIS=VALUE")


CheckpointPath = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="Checkpoint file, or folder with config.json. Default: the shipped ViT."),
]
Ckpt = Annotated[str | None, option(MODEL, "--ckpt", help="Checkpoint file, or folder with config.json.")]
Model = Annotated[
    str | None,
    option(MODEL, "--model", help="timm name, where the checkpoint does not tell it; or hf-hub:NAME."),
]
Pretrained = Annotated[bool, option(MODEL, "--pretrained", help="Fetch the published weights of --model.")]
Ema = Annotated[bool, option(MODEL, "--ema", help="Take the averaged weights of a training checkpoint.")]
ImgSize = Annotated[int | None, option(MODEL, "--img-size", help="Run at another input size.")]
ModelArg = Annotated[
    list[str] | None, option(MODEL, "--model-arg", help="KEY=VALUE for timm.create_model; may be repeated.")
]
Source = Annotated[
    str | None,
    option(MODEL, "--source", help="Checkpoint of the network it was made from; 'demo' is the shipped ViT."),
]
Data = Annotated[
    str | None,
    option(DATA, "--data", help="Folder of images, 'demo', or a timm data set (torch/..., hfds/..., wds/...)."),
]
Split = Annotated[str, option(DATA, "--split", help="Part of the data set.")]
DataDir = Annotated[str | None, option(DATA, "--data-dir", help="Where a named data set lies.")]
Labels = Annotated[bool, option(DATA, "--labels/--no-labels", help="Use the data's labels, or do without.")]
Mean = Annotated[str | None, option(DATA, "--mean", help="Override, comma separated.")]
Std = Annotated[str | None, option(DATA, "--std", help="Override, comma separated.")]
Interpolation = Annotated[str | None, option(DATA, "--interpolation", help="Override: bilinear, bicubic, ...")]
CropPct = Annotated[float | None, option(DATA, "--crop-pct", help="Override.")]
BatchSize = Annotated[int, option(RUN, "--batch-size", help="Images at a time.")]
Workers = Annotated[int, option(RUN, "--workers", help="Processes that read images.")]
Device = Annotated[str, option(RUN, "--device", help="auto, cpu or cuda.")]
Amp = Annotated[bool, option(RUN, "--amp", help="Score in bfloat16 autocast.")]
Seed = Annotated[int, option(RUN, "--seed", help="Chooses the images and every draw.")]
Json = Annotated[bool, option(RUN, "--json", help="Print the numbers as JSON instead of tables.")]
Scorer = Annotated[
    str, option(RUN, "--scorer", help="fisher, taylor, loss, activation, magnitude, magnitude-l1 or random.")
]


def require_writable(folder: Path) -> None:
    """Before the work, not after it."""
    from prune_realloc.core.files import make_folder, write_file
    from prune_realloc.core.names import STATE_FILE

    make_folder(folder)
    if (folder / STATE_FILE).exists():
        raise InputError(f"output {str(folder)!r} holds a training run; choose another folder")
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()


def parse_pairs(items: list[str] | None, flag: str = "model-arg", example: str = "num_heads=6") -> dict[str, Any]:
    import yaml

    pairs: dict[str, Any] = {}
    for item in items or []:
        key, sign, value = item.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{flag} {item!r}: the value is not YAML; write it as in {example}") from error
        if not sign or not key.isidentifier():
            raise InputError(f"{flag} {item!r} is not KEY=VALUE, such as {example}")
        if key in pairs:
            raise InputError(f"{flag} {item!r}: {key} is given twice; leave one out")
        pairs[key] = parsed
    return pairs


def preprocess_overrides(
    mean: str | None, std: str | None, interpolation: str | None, crop_pct: float | None
) -> dict[str, Any]:
    values = {
        "mean": parse_numbers("mean", mean),
        "std": parse_numbers("std", std),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
    }
    return {key: value for key, value in values.items() if value is not None}


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name} {text!r} is not a list of numbers, such as 0.485,0.456,0.406") from error
