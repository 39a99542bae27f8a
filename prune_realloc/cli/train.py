"""The verb `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_realloc.cli.compare import compare
from prune_realloc.cli.console import quiet_libraries, say, say_notes, say_taken, training_progress
from prune_realloc.cli.networks import told
from prune_realloc.cli.options import (
    MODEL,
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
    source_flags,
)
from prune_realloc.cli.trained import say_timm_command, show_trained
from prune_realloc.cli.values import parse_pairs
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.recipe.reader import parse_value, read_text

if TYPE_CHECKING:
    from prune_realloc.training.config import TrainConfig
    from prune_realloc.training.outputs import Trained


def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of an emitted or pruned network, checkpoint, 'demo', or timm's name; or what emit -o wrote.",
        ),
    ],
    *,
    data: TrainData,
    out: Annotated[Path, option(RUN, "-o", "--out", help="Folder of the run; the same command goes on from it.")],
    preset: Preset = "quick",
    config: Config = None,
    setting: Settings = None,
    seeds: Annotated[
        int | None, option(PLAN, "--seeds", help="So many runs, OUT/NAME-seed0 and on, and their comparison.")
    ] = None,
    teacher: Teacher = None,
    teacher_model: TeacherModel = None,
    teacher_arg: TeacherArgs = None,
    images: Annotated[dict[str, Any], data_flags("split", "data_dir", "class_map", "class_order")],
    eval_split: EvalSplit = "validation",
    samples: TrainSamples = None,
    network: Annotated[dict[str, Any], source_flags("model", "model_args")],
    num_classes: Annotated[
        int | None, option(MODEL, "--num-classes", help="Classes of a new head; 1: one logit. Default: the data's.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a network, with distillation if wanted; an interrupted run goes on when it is started again.

    With --teacher no labels are needed, and a network without a classifier learns the teacher's features.

    With what emit -o wrote as SOURCE, or with --seeds: several runs, one after the other, and then compare. On several
    processes: accelerate launch -m prune_realloc train ...
    """
    with quiet_libraries():
        from prune_realloc.runtime.device import pick_device
        from prune_realloc.runtime.distributed import process_group

        settings = train_settings(preset, config, setting or [], teacher)
        require_at_least("seeds", seeds, 1)
        naming = {name: images.pop(name) for name in ("class_map", "class_order") if name in images}
        parts = images | {"eval_split": eval_split}
        shared = network | parts | naming | {"data": data, "samples": samples, "teacher": teacher, "device": device}
        shared |= {"num_classes": num_classes, "teacher_options": told(teacher_model, teacher_arg or [], "teacher-arg")}
        runs = _runs(source, settings, seeds, out)
        several = seeds is not None or len(runs) > 1
        with process_group(pick_device(device)) as speaks:
            for name, folder, seed in runs:
                if several and speaks:
                    say(str(folder))
                done = _trained(name, settings.model_copy(update={"seed": seed}), folder, speaks, shared)
                if several and speaks:
                    say_taken(done.taken, {"teacher": done.teacher_taken})
    if speaks and several:
        compare([folder for _, folder, _ in runs], as_json=as_json)
    elif speaks:
        show_trained(done, out, as_json)
        if done.top1 is None:
            return  # timm's script reads labels
        given: dict[str, Any] = {"--teacher": teacher, "--samples": samples}
        given |= {"--class-map": naming.get("class_map"), "--class-order": naming.get("class_order")}
        given |= {"--eval-split held-out": "" if eval_split == "held-out" else None}
        network.pop("model", None)  # timm's script takes what the trained network says
        say_timm_command(settings, source, data, out, parts | network, given)


def _runs(source: str, settings: TrainConfig, seeds: int | None, out: Path) -> list[tuple[str, Path, int]]:
    """Network, folder and seed of every run."""
    networks = _emitted(source)
    if seeds is None and len(networks) == 1:
        return [(networks[0], out, settings.seed)]
    return [
        (network, out / f"{Path(network).name}-seed{seed}", seed)
        for seed in range(settings.seed, settings.seed + (seeds or 1))
        for network in networks
    ]


def _emitted(source: str) -> list[str]:
    """The networks of a folder that `emit -o` wrote; else the source itself."""
    from prune_realloc.results.variant import CONTROL, NETWORKS, REALLOCATED

    there = {name: Path(source) / name for name in NETWORKS if (Path(source) / name / "config.json").is_file()}
    return [str(path) for path in there.values()] if {REALLOCATED, CONTROL} <= there.keys() else [source]


def train_settings(preset: str, config: Path | None, items: list[str], teacher: str | None) -> TrainConfig:
    """The preset, over it the file, and over both the flags."""
    from prune_realloc.training.config import train_config

    values: dict[str, Any] = {}
    if config is not None:
        values = parse_value(read_text(config, "config"), f"config {str(config)!r}") or {}
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise InputError(f"config {str(config)!r} is no mapping; write lines such as epochs: 30")
    values |= parse_pairs(items, "set", "epochs=30")
    if teacher is None and preset == "recover" and "distill" not in values:
        raise InputError("preset 'recover' distils from the source; give it with --teacher, or --set distill=none")
    return train_config(preset, **({"distill": "soft"} if teacher is not None else {}) | values)


def _trained(network: str, settings: TrainConfig, folder: Path, speaks: bool, more: dict[str, Any]) -> Trained:
    """One run."""
    from prune_realloc.training.teacher import is_untrained
    from prune_realloc.training.train import train as run

    if speaks and is_untrained(network) and "model" not in more:
        say_notes([f"{network} starts from new weights"])
    with training_progress(settings.epochs, speaks) as report:
        return run(network, settings, out=folder, report=report, **more)
