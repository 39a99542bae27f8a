"""The verb `train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prune_realloc.cli.compare import compare
from prune_realloc.cli.console import is_main_process, print_table, quiet_libraries, training_progress
from prune_realloc.cli.options import DATA, PLAN, RUN, DataDir, Device, Json, ModelArg, Split, option, parse_pairs
from prune_realloc.core.errors import InputError


def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of an emitted or pruned network, checkpoint, 'demo', or timm's name; or what emit -o wrote.",
        ),
    ],
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
    split: Split = "train",
    eval_split: Annotated[
        str, option(DATA, "--eval-split", help="Part that is evaluated; held-out: what --samples leaves of --split.")
    ] = "validation",
    data_dir: DataDir = None,
    samples: Annotated[int | None, option(DATA, "--samples", help="Train on so many images. Default: all.")] = None,
    model_arg: ModelArg = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a network, with distillation if wanted; an interrupted run goes on when it is started again.

    With what emit -o wrote as SOURCE, or with --seeds: several runs, one after the other, and then compare. On several
    processes: accelerate launch -m prune_realloc train ...
    """
    with quiet_libraries():
        from prune_realloc.core.errors import require_at_least
        from prune_realloc.runtime.device import pick_device
        from prune_realloc.runtime.distributed import process_group
        from prune_realloc.training.outputs import BEST, LAST
        from prune_realloc.training.teacher import is_stored
        from prune_realloc.training.timm_command import timm_command
        from prune_realloc.training.train import train as run

        settings = _settings(preset, config, setting, teacher)
        require_at_least("seeds", seeds if seeds is not None else 1, 1)
        networks = _emitted(source)
        several = seeds is not None or len(networks) > 1
        folders = []
        with process_group(pick_device(device)):
            for seed in range(settings.seed, settings.seed + (seeds or 1)):
                for network in networks:
                    folder = out / f"{Path(network).name}-seed{seed}" if several else out
                    folders.append(folder)
                    if several and is_main_process():
                        print(folder, file=sys.stderr)
                    if not is_stored(network) and ":" not in network and is_main_process():
                        print(f"note: {network} starts from new weights", file=sys.stderr)
                    with training_progress(settings.epochs) as report:
                        done = run(
                            network,
                            settings.model_copy(update={"seed": seed}),
                            data=data,
                            out=folder,
                            data_dir=data_dir,
                            split=split,
                            eval_split=eval_split,
                            samples=samples,
                            teacher=teacher,
                            model_args=parse_pairs(model_arg),
                            device=device,
                            report=report,
                        )
    if not is_main_process():
        return
    if several:
        compare(folders, as_json=as_json)
        return
    if done.unreadable:
        print(
            f"note: {done.unreadable} images of the last epoch cannot be read; others stood in for them",
            file=sys.stderr,
        )
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
    if "demo" not in (source, data):  # which timm does not know
        text = timm_command(
            settings,
            source,
            data,
            json.loads((out / LAST / "config.json").read_text()),
            data_dir=data_dir,
            split=split,
            eval_split=eval_split,
        )
        others = [
            flag
            for flag, given in (("--teacher", teacher), ("--samples", samples), ("--model-arg", model_arg))
            if given is not None
        ]
        without = f" (without {', '.join(others)})" if others else ""
        print(f"\nthe same with timm's train.py, as far as it goes{without}: {text}", file=sys.stderr)


def _emitted(source: str) -> list[str]:
    """The networks of a folder that `emit -o` wrote; else the source itself."""
    from prune_realloc.results.variant import CONTROL, REALLOCATED

    both = [Path(source) / name for name in (REALLOCATED, CONTROL)]
    return [str(path) for path in both] if all((path / "config.json").is_file() for path in both) else [source]


def _settings(preset: str, config: Path | None, items: list[str] | None, teacher: str | None) -> Any:
    import yaml

    from prune_realloc.recipe.reader import read_text
    from prune_realloc.training.config import train_config

    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = yaml.safe_load(read_text(config, "config")) or {}
        except yaml.YAMLError as error:
            raise InputError(f"config {str(config)!r} is not YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise InputError(f"config {str(config)!r} is no mapping; write lines such as epochs: 30")
    values |= parse_pairs(items, "set", "epochs=30")
    if teacher is None and preset == "recover" and "distill" not in values:
        raise InputError("preset 'recover' distils from the source; give it with --teacher, or --set distill=none")
    return train_config(preset, **({"distill": "soft"} if teacher is not None else {}) | values)
