"""The verb `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_realloc.cli.compare import compare
from prune_realloc.cli.console import print_table, quiet_libraries, say, say_notes, training_progress
from prune_realloc.cli.options import DATA, PLAN, RUN, Device, Json, data_flags, option, source_flags
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
    data: Annotated[str, option(DATA, "--data", help="Folder of labelled images, 'demo', or a timm data set.")],
    out: Annotated[Path, option(RUN, "-o", "--out", help="Folder of the run; the same command goes on from it.")],
    preset: Annotated[str, option(PLAN, "--preset", help="quick, paper or recover.")] = "quick",
    config: Annotated[Path | None, option(PLAN, "--config", help="YAML file of settings, over the preset.")] = None,
    setting: Annotated[
        list[str] | None, option(PLAN, "--set", help="KEY=VALUE over both, such as epochs=30; may be repeated.")
    ] = None,
    seeds: Annotated[
        int | None, option(PLAN, "--seeds", help="So many runs, OUT/NAME-seed0 and on, and their comparison.")
    ] = None,
    teacher: Annotated[
        str | None, option(PLAN, "--teacher", help="Checkpoint, 'demo', or timm's name of a network to distil from.")
    ] = None,
    images: Annotated[dict[str, Any], data_flags("split", "data_dir")],
    eval_split: Annotated[
        str, option(DATA, "--eval-split", help="Part that is evaluated; held-out: what --samples leaves of --split.")
    ] = "validation",
    samples: Annotated[int | None, option(DATA, "--samples", help="Train on so many images. Default: all.")] = None,
    network: Annotated[dict[str, Any], source_flags("model_args")],
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a network, with distillation if wanted; an interrupted run goes on when it is started again.

    With what emit -o wrote as SOURCE, or with --seeds: several runs, one after the other, and then compare. On several
    processes: accelerate launch -m prune_realloc train ...
    """
    with quiet_libraries():
        from prune_realloc.runtime.device import pick_device
        from prune_realloc.runtime.distributed import process_group

        settings = _settings(preset, config, setting or [], teacher)
        require_at_least("seeds", seeds, 1)
        shared = {
            "data": data,
            "eval_split": eval_split,
            "samples": samples,
            "teacher": teacher,
            "device": device,
        }
        shared |= images | network
        runs = _runs(source, settings, seeds, out)
        several = seeds is not None or len(runs) > 1
        with process_group(pick_device(device)) as speaks:
            for name, folder, seed in runs:
                if several and speaks:
                    say(str(folder))
                done = _trained(name, settings.model_copy(update={"seed": seed}), folder, speaks, shared)
    if not speaks:
        return
    if several:
        compare([folder for _, folder, _ in runs], as_json=as_json)
        return
    _show_trained(done, out, as_json)
    if "demo" not in (source, data):  # which timm does not know
        given = {"--teacher": teacher, "--samples": samples, "--model-arg": network.get("model_args")}
        without = [flag for flag, value in given.items() if value is not None]
        _say_timm_command(settings, source, data, out, {"data_dir": None, "eval_split": eval_split} | images, without)


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
    from prune_realloc.results.variant import CONTROL, REALLOCATED

    both = [Path(source) / name for name in (REALLOCATED, CONTROL)]
    return [str(path) for path in both] if all((path / "config.json").is_file() for path in both) else [source]


def _settings(preset: str, config: Path | None, items: list[str], teacher: str | None) -> TrainConfig:
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
    from prune_realloc.training.teacher import is_stored
    from prune_realloc.training.train import train as run

    if speaks and not is_stored(network) and ":" not in network:
        say_notes([f"{network} starts from new weights"])
    with training_progress(settings.epochs, speaks) as report:
        return run(network, settings, out=folder, report=report, **more)


def _show_trained(done: Trained, out: Path, as_json: bool) -> None:
    from prune_realloc.training.outputs import BEST, LAST

    if done.unreadable:
        say_notes([f"{done.unreadable} images of the last epoch cannot be read; others stood in for them"])
    rows = [
        ("epochs", str(done.epochs)),
        ("top-1", f"{done.top1:.2%}"),
        ("best top-1", f"{done.best_top1:.2%} after epoch {done.best_epoch}"),
        ("loss, nats", f"{done.loss:.4f} (training {done.train_loss:.4f})"),
        ("minutes", f"{done.seconds / 60:.1f}"),
    ]
    if done.teacher_top1 is not None:
        rows.insert(1, ("teacher's top-1", f"{done.teacher_top1:.2%}"))
    print_table(done, as_json, f"{out}/{LAST} and {out}/{BEST}", ("", ""), rows)


def _say_timm_command(
    settings: TrainConfig, source: str, data: str, out: Path, parts: dict[str, Any], without: list[str]
) -> None:
    """How timm's script trains the same network; `without` are the flags that it has nothing for."""
    from prune_realloc.training.outputs import LAST
    from prune_realloc.training.timm_command import timm_command

    network = json.loads((out / LAST / "config.json").read_text())
    text = timm_command(settings, source, data, network, **parts)
    left_out = f" (without {', '.join(without)})" if without else ""
    say(f"\nthe same with timm's train.py, as far as it goes{left_out}: {text}")
