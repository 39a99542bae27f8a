"""The verbs. Each only translates: flags -> one library call -> files and a table. Heavy imports stay inside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prune_realloc import __version__
from prune_realloc.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from prune_realloc.analysis import Analysis
    from prune_realloc.prune import Applied
    from prune_realloc.variants import Variant

app = typer.Typer(
    help="Find where a trained Vision Transformer keeps the parameters that matter.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip

_MODEL, _DATA, _PLAN, _RUN = "Model", "Data", "Plan", "Run"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _per_axis(flag: str, help: str) -> Any:
    return typer.Option(flag, help=f"{help} May be repeated.", rich_help_panel=_PLAN, metavar="AXIS=VALUE")


_Path = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="Checkpoint file, or folder with config.json. Default: the shipped ViT."),
]
_Ckpt = Annotated[str | None, _option(_MODEL, "--ckpt", help="Checkpoint file, or folder with config.json.")]
_Model = Annotated[
    str | None,
    _option(_MODEL, "--model", help="timm name, where the checkpoint does not tell it; or hf-hub:NAME."),
]
_Pretrained = Annotated[bool, _option(_MODEL, "--pretrained", help="Fetch the published weights of --model.")]
_Ema = Annotated[bool, _option(_MODEL, "--ema", help="Take the averaged weights of a training checkpoint.")]
_ImgSize = Annotated[int | None, _option(_MODEL, "--img-size", help="Run at another input size.")]
_ModelArg = Annotated[
    list[str] | None, _option(_MODEL, "--model-arg", help="KEY=VALUE for timm.create_model; may be repeated.")
]
_Source = Annotated[
    str | None,
    _option(_MODEL, "--source", help="Checkpoint of the network it was made from; 'demo' is the shipped ViT."),
]
_Data = Annotated[
    str | None,
    _option(_DATA, "--data", help="Folder of images, 'demo', or a timm data set (torch/..., hfds/..., wds/...)."),
]
_Split = Annotated[str, _option(_DATA, "--split", help="Part of the data set.")]
_DataDir = Annotated[str | None, _option(_DATA, "--data-dir", help="Where a named data set lies.")]
_Labels = Annotated[bool, _option(_DATA, "--labels/--no-labels", help="Use the data's labels, or do without.")]
_Mean = Annotated[str | None, _option(_DATA, "--mean", help="Override, comma separated.")]
_Std = Annotated[str | None, _option(_DATA, "--std", help="Override, comma separated.")]
_Interpolation = Annotated[str | None, _option(_DATA, "--interpolation", help="Override: bilinear, bicubic, ...")]
_CropPct = Annotated[float | None, _option(_DATA, "--crop-pct", help="Override.")]
_BatchSize = Annotated[int, _option(_RUN, "--batch-size", help="Images at a time.")]
_Workers = Annotated[int, _option(_RUN, "--workers", help="Processes that read images.")]
_Device = Annotated[str, _option(_RUN, "--device", help="auto, cpu or cuda.")]
_Amp = Annotated[bool, _option(_RUN, "--amp", help="Score in bfloat16 autocast.")]
_Seed = Annotated[int, _option(_RUN, "--seed", help="Chooses the images and every draw.")]
_Json = Annotated[bool, _option(_RUN, "--json", help="Print the numbers as JSON instead of tables.")]
_Scorer = Annotated[
    str, _option(_RUN, "--scorer", help="fisher, taylor, loss, activation, magnitude, magnitude-l1 or random.")
]


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def analyze(
    ckpt: _Ckpt = None,
    model: _Model = None,
    pretrained: _Pretrained = False,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    data: _Data = None,
    split: _Split = "train",
    data_dir: _DataDir = None,
    labels: _Labels = True,
    mean: _Mean = None,
    std: _Std = None,
    interpolation: _Interpolation = None,
    crop_pct: _CropPct = None,
    scorer: _Scorer = "fisher",
    samples: Annotated[int, _option(_RUN, "--samples", help="How many images.")] = 1024,
    batch_size: _BatchSize = 32,
    workers: _Workers = 0,
    device: _Device = "auto",
    amp: _Amp = False,
    seed: _Seed = 0,
    out: Annotated[Path | None, _option(_RUN, "-o", "--out", help="Folder for analysis, picture and report.")] = None,
    as_json: _Json = False,
) -> None:
    """Score every unit of a trained ViT on real images, and show per block and component what matters.

    On several processes: accelerate launch -m prune_realloc analyze ...

    Without --ckpt and --model: the ViT and the images that the package ships.
    """
    with _quiet_libraries():
        from prune_realloc.examine import analyze as run
        from prune_realloc.processes import process_group
        from prune_realloc.session import pick_device

        preprocess = _preprocess(mean, std, interpolation, crop_pct)
        if out is not None:
            _check_folder(out)
        with process_group(pick_device(device)), _progress("scoring") as progress:
            found = run(
                model, ckpt=ckpt, pretrained=pretrained, ema=ema, img_size=img_size,
                model_args=_pairs(model_arg), data=data, split=split, data_dir=data_dir, labels=labels,
                preprocess=preprocess, scorer=scorer, samples=samples, batch_size=batch_size, workers=workers,
                device=device, amp=amp, seed=seed, progress=progress,
            )  # fmt: skip
        if _is_main():
            _deliver(found, out, as_json)


@app.command()
def plan(
    analysis: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `analyze -o` wrote.")],
    keep_macs: Annotated[float | None, _option(_PLAN, "--keep-macs", help="Share of the multiply-adds.")] = None,
    keep_params: Annotated[float | None, _option(_PLAN, "--keep-params", help="Share of the parameters.")] = None,
    macs: Annotated[str | None, _option(_PLAN, "--macs", help="Multiply-adds, such as 600M.")] = None,
    params: Annotated[str | None, _option(_PLAN, "--params", help="Parameters, such as 10M.")] = None,
    recipe: Annotated[
        Path | None,
        _option(_PLAN, "--recipe", help="Recipe to start from: its budget, allocation, axes, rules, compensation."),
    ] = None,
    allocation: Annotated[
        str | None, _option(_PLAN, "--allocation", help="damage (default), uniform or per-axis.")
    ] = None,
    axes: Annotated[
        str | None,
        _option(_PLAN, "--axes", help="What may go: some of qk,v,ffn,heads,embed,block. Default: qk,v,ffn."),
    ] = None,
    round_to: Annotated[list[str] | None, _per_axis("--round-to", "Multiples, such as ffn=32.")] = None,
    floor: Annotated[
        list[str] | None, _per_axis("--floor", "Never fewer, such as qk=16; per head for qk and v.")
    ] = None,
    ceiling: Annotated[list[str] | None, _per_axis("--ceiling", "Never more, such as ffn=768.")] = None,
    freeze: Annotated[
        list[str] | None, _per_axis("--freeze", "AXIS or AXIS=BLOCKS that stay, such as v or ffn=0-3.")
    ] = None,
    out: Annotated[Path | None, _option(_RUN, "-o", "--out", help="Recipe file to write.")] = None,
    as_json: _Json = False,
) -> None:
    """Widths of every site at a budget, each with its reason: a recipe for `apply`."""
    from prune_realloc.analysis import Analysis, write_file
    from prune_realloc.planner import plan as run
    from prune_realloc.recipe import build_recipe, dump_recipe, load_recipe
    from prune_realloc.report import plan_facts, plan_table

    found = Analysis.load(analysis)
    taken = {"budget", "allocation", "axes", "rules", "compensate"}
    base = {} if recipe is None else load_recipe(recipe).model_dump(exclude_defaults=True, include=taken)
    given = {"keep_macs": keep_macs, "keep_params": keep_params, "macs": macs, "params": params}
    budget = {key: value for key, value in given.items() if value is not None}
    changes: dict[str, Any] = {"budget": budget} if budget else {}
    changes |= {"allocation": allocation} if allocation is not None else {}
    changes |= {"axes": [axis.strip() for axis in axes.split(",")]} if axes is not None else {}
    rules = {axis: list(rs) if isinstance(rs, list) else [rs] for axis, rs in base.get("rules", {}).items()}
    for field, items in (("round_to", round_to), ("floor", floor), ("ceiling", ceiling)):
        for axis, value in _pairs(items, field, "ffn=32").items():
            rules.setdefault(axis, []).append({field: value})
    for item in freeze or []:
        axis, _, blocks = item.partition("=")
        rules.setdefault(axis, []).append({"freeze": True} | ({"blocks": blocks} if blocks else {}))
    done = build_recipe(found.as_recipe() | base | changes | ({"rules": rules} if rules else {}))
    done = done.model_copy(update={"plan": run(found, done)})
    if out is not None:
        write_file(out, dump_recipe(done, f"prune-realloc apply {out.name} -o pruned").encode())
    if as_json:
        print(json.dumps(done.model_dump(exclude_none=True), indent=1))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    console.print(plan_table(done))
    for line in plan_facts(done):
        console.print(line, soft_wrap=True, markup=False)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)


@app.command()
def apply(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, planned or not.")],
    ckpt: _Ckpt = None,
    model: _Model = None,
    pretrained: _Pretrained = False,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    data: _Data = None,
    split: Annotated[str | None, _option(_DATA, "--split", help="Part that layers are refitted on.")] = None,
    data_dir: _DataDir = None,
    labels: Annotated[bool | None, _option(_DATA, "--labels/--no-labels", help="Use the data's labels or not.")] = None,
    mean: _Mean = None,
    std: _Std = None,
    interpolation: _Interpolation = None,
    crop_pct: _CropPct = None,
    eval_split: Annotated[str, _option(_DATA, "--eval-split", help="Part that is measured on.")] = "validation",
    eval_samples: Annotated[int, _option(_DATA, "--eval-samples", help="How many images of it.")] = 5000,
    samples: Annotated[int | None, _option(_RUN, "--samples", help="How many images to refit on.")] = None,
    batch_size: _BatchSize = 32,
    workers: _Workers = 0,
    device: _Device = "auto",
    amp: _Amp = False,
    seed: Annotated[int | None, _option(_RUN, "--seed", help="Chooses the images and every draw.")] = None,
    timed: Annotated[bool, _option(_RUN, "--bench/--no-bench", help="Measure latency before and after.")] = True,
    out: Annotated[Path | None, _option(_RUN, "-o", "--out", help="Folder for the pruned network.")] = None,
    as_json: _Json = False,
) -> None:
    """Cut a network as a recipe says, refit what is left, and show before and after.

    Without --ckpt: the recipe's own source. What is given here overrides the recipe.
    """
    with _quiet_libraries():
        from prune_realloc.prune import apply as run
        from prune_realloc.recipe import build_recipe, load_recipe

        values = load_recipe(recipe).model_dump(exclude_none=True)
        source = {"ckpt": ckpt, "model": model, "pretrained": pretrained or None, "ema": ema or None,
                  "img_size": img_size, "model_args": _pairs(model_arg) or None}  # fmt: skip
        images = {"name": data, "split": split, "data_dir": data_dir, "labels": labels, "samples": samples,
                  "seed": seed, "preprocess": _preprocess(mean, std, interpolation, crop_pct) or None}  # fmt: skip
        # another checkpoint, other images: what the recipe says of its own no longer holds
        for section, own, new in (("source", ("pretrained", "ema"), ckpt),
                                  ("data", ("data_dir", "labels", "preprocess"), data)):  # fmt: skip
            for key in own if new is not None else ():
                values[section].pop(key, None)
        for section, given in (("source", source), ("data", images)):
            values[section] |= {key: value for key, value in given.items() if value is not None}
        if out is not None:
            _check_folder(out)
        with _progress("images") as progress:
            done = run(
                build_recipe(values), out=out, eval_split=eval_split, eval_samples=eval_samples,
                batch_size=batch_size, workers=workers, device=device, amp=amp, timed=timed, progress=progress,
            )  # fmt: skip
    _show_outcome(done, out, as_json)


@app.command()
def emit(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of an analysis or a pruned network, or a planned recipe.")
    ],
    recipe: Annotated[
        Path | None, _option(_PLAN, "--recipe", help="Recipe whose target says what is wanted and what may move.")
    ] = None,
    like: Annotated[
        str | None,
        _option(_PLAN, "--like", help="efficientvit_m0 to m5: depth, heads and kernels; its cost is the budget."),
    ] = None,
    macs: Annotated[str | None, _option(_PLAN, "--macs", help="Multiply-adds, such as 80M.")] = None,
    params: Annotated[str | None, _option(_PLAN, "--params", help="Parameters, such as 2.3M.")] = None,
    grid: Annotated[bool, _option(_PLAN, "--grid", help="One variant for each of M0 to M5.")] = False,
    per: Annotated[
        str | None, _option(_PLAN, "--per", help="stage (default) or block: what shares its widths.")
    ] = None,
    img_size: Annotated[int | None, _option(_MODEL, "--img-size", help="Pixels. Default: the source's.")] = None,
    in_chans: Annotated[int | None, _option(_MODEL, "--in-chans", help="Channels. Default: the source's.")] = None,
    num_classes: Annotated[int | None, _option(_MODEL, "--num-classes", help="Default: the source's.")] = None,
    stem_strides: Annotated[
        str | None,
        _option(_MODEL, "--stem-strides", help="Such as 2,2. Default: about 14 x 14 tokens in the first stage."),
    ] = None,
    inherit: Annotated[
        Path | None,
        _option(_MODEL, "--inherit", help="The analysed EfficientViT's checkpoint: start with what survives of it."),
    ] = None,
    timed: Annotated[bool, _option(_RUN, "--bench/--no-bench", help="Measure latency.")] = True,
    out: Annotated[Path | None, _option(_RUN, "-o", "--out", help="Folder for the variants.")] = None,
    as_json: _Json = False,
) -> None:
    """A new EfficientViT (MSRA) whose widths follow from what pruning keeps, and the uniform control of equal cost."""
    with _quiet_libraries():
        from prune_realloc.recipe import load_recipe
        from prune_realloc.variants import emit as run

        given: dict[str, Any] = {"like": like, "macs": macs, "params": params, "per": per, "img_size": img_size,
                 "in_chans": in_chans, "num_classes": num_classes}  # fmt: skip
        if stem_strides is not None:
            given["stem_strides"] = [int(n) if n.strip().isdecimal() else n for n in stem_strides.split(",")]
        if out is not None:
            _check_folder(out)
        found = run(
            source, recipe=None if recipe is None else load_recipe(recipe),
            target={key: value for key, value in given.items() if value is not None}, grid=grid, inherit=inherit,
            out=out, timed=timed,
            progress=lambda what: print(what, file=sys.stderr),
        )  # fmt: skip
    _show_variants(found, out, as_json)


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of an emitted or pruned network, checkpoint, 'demo', or timm's name; or what emit -o wrote.",
        ),
    ],
    data: Annotated[str, _option(_DATA, "--data", help="Folder of labelled images, 'demo', or a timm data set.")],
    out: Annotated[Path, _option(_RUN, "-o", "--out", help="Folder of the run; the same command goes on from it.")],
    preset: Annotated[str, _option(_PLAN, "--preset", help="quick, paper or recover.")] = "quick",
    config: Annotated[Path | None, _option(_PLAN, "--config", help="YAML file of settings, over the preset.")] = None,
    setting: Annotated[
        list[str] | None, _option(_PLAN, "--set", help="KEY=VALUE over both, such as epochs=30; may be repeated.")
    ] = None,
    seeds: Annotated[
        int | None, _option(_PLAN, "--seeds", help="So many runs, OUT/NAME-seed0 and on, and their comparison.")
    ] = None,
    teacher: Annotated[
        str | None, _option(_PLAN, "--teacher", help="Checkpoint, 'demo', or timm's name of a network to distil from.")
    ] = None,
    split: _Split = "train",
    eval_split: Annotated[
        str, _option(_DATA, "--eval-split", help="Part that is evaluated; held-out: what --samples leaves of --split.")
    ] = "validation",
    data_dir: _DataDir = None,
    samples: Annotated[int | None, _option(_DATA, "--samples", help="Train on so many images. Default: all.")] = None,
    model_arg: _ModelArg = None,
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Train a network, with distillation if wanted; an interrupted run goes on when it is started again.

    With what emit -o wrote as SOURCE, or with --seeds: several runs, one after the other, and then compare. On several
    processes: accelerate launch -m prune_realloc train ...
    """
    with _quiet_libraries():
        from prune_realloc.processes import process_group
        from prune_realloc.session import pick_device, require_at_least
        from prune_realloc.train_config import timm_command
        from prune_realloc.training import BEST, LAST
        from prune_realloc.training import train as run

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
                    if several and _is_main():
                        print(folder, file=sys.stderr)
                    with _training_progress(settings.epochs) as report:
                        done = run(
                            network, settings.model_copy(update={"seed": seed}), data=data, out=folder,
                            data_dir=data_dir, split=split, eval_split=eval_split, samples=samples, teacher=teacher,
                            model_args=_pairs(model_arg), device=device, report=report,
                        )  # fmt: skip
    if not _is_main():
        return
    if several:
        compare(folders, as_json=as_json)
        return
    if done.unreadable:
        print(f"note: {done.unreadable} images of the last epoch cannot be read; others stood in for them",
              file=sys.stderr)  # fmt: skip
    rows = [
        ("epochs", str(done.epochs)),
        ("top-1", f"{done.top1:.2%}"),
        ("best top-1", f"{done.best_top1:.2%} after epoch {done.best_epoch}"),
        ("loss, nats", f"{done.loss:.4f} (training {done.train_loss:.4f})"),
        ("minutes", f"{done.seconds / 60:.1f}"),
    ]
    if done.teacher_top1 is not None:
        rows.insert(1, ("teacher's top-1", f"{done.teacher_top1:.2%}"))
    _print_table(done, as_json, f"{out}/{LAST} and {out}/{BEST}", ("", ""), rows)
    if "demo" not in (source, data):  # which timm does not know
        text = timm_command(settings, source, data, json.loads((out / LAST / "config.json").read_text()),
                            data_dir=data_dir, split=split, eval_split=eval_split)  # fmt: skip
        others = [flag for flag, given in (("--teacher", teacher), ("--samples", samples), ("--model-arg", model_arg))
                  if given is not None]  # fmt: skip
        without = f" (without {', '.join(others)})" if others else ""
        print(f"\nthe same with timm's train.py, as far as it goes{without}: {text}", file=sys.stderr)


def _emitted(source: str) -> list[str]:
    """The networks of a folder that `emit -o` wrote; else the source itself."""
    from prune_realloc.variants import CONTROL, REALLOCATED

    both = [Path(source) / name for name in (REALLOCATED, CONTROL)]
    return [str(path) for path in both] if all((path / "config.json").is_file() for path in both) else [source]


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    control: Annotated[
        str | None,
        typer.Option(
            "--control", help="Group that the others are compared with. Default: named control, and nearest in MACs."
        ),
    ] = None,
    timed: Annotated[bool, typer.Option("--bench", help="Measure latency of the networks, in turns.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Picture to write, .png or .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
) -> None:
    """Accuracy against cost of trained networks: mean and 95 % interval over seeds, paired against the control.

    Runs whose folders differ only in an ending such as -seed1 belong together.
    """
    with _quiet_libraries():
        from prune_realloc.compare import compare as run
        from prune_realloc.compare import with_latency, write_plot

        groups = run(runs, control)
        groups = with_latency(groups) if timed else groups
    if plot is not None:
        write_plot(groups, plot)
    several = len({group.control for group in groups if group.control}) > 1
    columns = ["", "seeds", "top-1 %", "95 %", "to the control, points", "95 %", *(["control"] if several else []),
               "MACs", "params", *(["ms, batch 1"] if timed else [])]  # fmt: skip
    rows = []
    for g in groups:
        difference = "" if g.difference is None else f"{100 * g.difference:+.2f}"
        rows.append((g.name, str(len(g.seeds)), f"{100 * g.mean:.2f}", _half(g.half_width), difference,
                     _half(g.difference_half_width), *([g.control or ""] if several else []), f"{g.macs:,}",
                     f"{g.params:,}", *([f"{g.latency_ms:.2f}"] if timed else [])))  # fmt: skip
    if as_json:
        import dataclasses

        print(json.dumps([dataclasses.asdict(group) for group in groups], indent=1))
        return
    notes = tuple(f"{g.name} and {g.control} have no seed in common, so there is no difference" for g in groups
                  if g.control is not None and g.difference is None)  # fmt: skip
    notes += tuple(f"{g.name} and {g.control} were trained otherwise ({g.differs}), so their difference is not the "
                  "networks' alone" for g in groups if g.differs is not None)  # fmt: skip
    _print_table(None, False, f"runs: {len(runs)}", columns, rows, notes)


def _half(width: float | None) -> str:
    return "" if width is None else f"+-{100 * width:.2f}"


def _settings(preset: str, config: Path | None, items: list[str] | None, teacher: str | None) -> Any:
    import yaml

    from prune_realloc.recipe import read_text
    from prune_realloc.train_config import train_config

    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = yaml.safe_load(read_text(config, "config")) or {}
        except yaml.YAMLError as error:
            raise InputError(f"config {str(config)!r} is not YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise InputError(f"config {str(config)!r} is no mapping; write lines such as epochs: 30")
    values |= _pairs(items, "set", "epochs=30")
    if teacher is None and preset == "recover" and "distill" not in values:
        raise InputError("preset 'recover' distils from the source; give it with --teacher, or --set distill=none")
    return train_config(preset, **({"distill": "soft"} if teacher is not None else {}) | values)


@contextmanager
def _training_progress(epochs: int) -> Iterator[Any]:
    """A bar for the run with the time that is left, from its first word on, and a line for each epoch that is done."""
    columns = (TextColumn("epoch {task.fields[epoch]} of {task.total}"), BarColumn(),
               TextColumn("loss {task.fields[loss]:.4f}"), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True, highlight=False)
    bar = Progress(*columns, console=console, transient=sys.stderr.isatty(), disable=not _is_main(),
                   speed_estimate_period=600)  # fmt: skip

    def report(row: dict[str, float]) -> None:
        epoch = int(row["epoch"])
        if not bar.tasks:
            bar.add_task("", total=epochs, epoch=epoch, loss=row["loss"])
            bar.start()
        bar.update(bar.tasks[0].id, completed=epoch - 1 + row.get("done", 1), epoch=epoch, loss=row["loss"])
        if "done" not in row:
            console.print(f"epoch {epoch}: loss {row['loss']:.4f}, top-1 {row['top1']:.2%}, "
                          f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s")  # fmt: skip

    try:
        yield report
    finally:
        bar.stop()


@app.command()
def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Recipes.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check recipes, and list everything that is wrong in them with its line."""
    from prune_realloc.recipe import check_recipe, read_text, recipe_schema

    if schema:
        print(json.dumps(recipe_schema(), indent=1))
        return
    if not files:
        raise InputError("validate needs a FILE, such as half.yaml")
    found = {str(file): check_recipe(read_text(file)) for file in files}
    if as_json:
        print(json.dumps([{"file": file, "problems": [vars(p) for p in ps]} for file, ps in found.items()], indent=1))
    else:
        for file, problems in found.items():
            print("\n".join(f"{file}:{problem}" for problem in problems) or f"{file}: ok")
    if any(found.values()):
        raise typer.Exit(2)


@app.command(name="eval")
def evaluate(
    ckpt: _Path = None,
    model: _Model = None,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    source: _Source = None,
    data: _Data = None,
    split: _Split = "validation",
    data_dir: _DataDir = None,
    labels: _Labels = True,
    mean: _Mean = None,
    std: _Std = None,
    interpolation: _Interpolation = None,
    crop_pct: _CropPct = None,
    samples: Annotated[int | None, _option(_RUN, "--samples", help="How many images. Default: all.")] = None,
    batch_size: _BatchSize = 64,
    workers: _Workers = 0,
    device: _Device = "auto",
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Top-1, top-5 and loss on labelled images; with --source also how far the model is from its source."""
    with _quiet_libraries():
        from prune_realloc.evaluate import evaluate as run

        preprocess = _preprocess(mean, std, interpolation, crop_pct)
        with _progress("evaluating") as progress:
            found = run(
                model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg), source=source,
                data=data, split=split, data_dir=data_dir, labels=labels, preprocess=preprocess, samples=samples,
                batch_size=batch_size, workers=workers, device=device, seed=seed, progress=progress,
            )  # fmt: skip
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
    _print_table(found, as_json, where, ("", ""), rows, found.notes)


@app.command()
def bench(
    ckpt: _Path = None,
    model: _Model = None,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    source: _Source = None,
    batch_size: Annotated[
        list[int] | None, _option(_RUN, "--batch-size", help="May be repeated. Default: 1 and 32.")
    ] = None,
    backend: Annotated[
        list[str] | None, _option(_RUN, "--backend", help="eager, compiled or onnx; may be repeated. Default: eager.")
    ] = None,
    threads: Annotated[int | None, _option(_RUN, "--threads", help="CPU threads. Default: PyTorch's.")] = None,
    seconds: Annotated[float, _option(_RUN, "--seconds", help="Per network, backend and batch size.")] = 3.0,
    device: _Device = "cpu",
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Latency and throughput; with --source both networks in turns, and whether the model is faster at all."""
    with _quiet_libraries():
        from prune_realloc.bench import bench as run
        from prune_realloc.checkpoint import load_model
        from prune_realloc.evaluate import load_source, require_same_input
        from prune_realloc.export import deployed
        from prune_realloc.session import input_shape

        net = load_model(model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg))
        models = {"model": deployed(net)}
        if source is not None:
            before = load_source(source, img_size=img_size)
            require_same_input(net, before)
            models = {"source": deployed(before)} | models
        found = run(
            models, input_shape(net), batch_sizes=batch_size or (1, 32), backends=backend or ("eager",),
            threads=threads, device=device, seconds=seconds, seed=seed,
            progress=lambda what: print(f"timing {what}", file=sys.stderr),
        )  # fmt: skip
    columns = ("backend", "batch", "model", "median ms", "iqr ms", "min ms", "images/s", "speed-up", "95 %")
    rows = []
    for t in found.timings:
        low, high = t.speedup_interval
        ratio = ("", "") if t.model == found.reference else (f"{t.speedup:.2f}", f"{low:.2f}-{high:.2f}")
        rows.append((t.backend, str(t.batch_size), t.model, f"{t.median_ms:.2f}", f"{t.iqr_ms:.2f}",
                     f"{t.min_ms:.2f}", f"{t.images_per_second:.1f}", *ratio))  # fmt: skip
    where = f"{found.device_name} ({found.device}), {found.threads} threads, images {found.input_shape}"
    _print_table(found, as_json, where, columns, rows)
    for line in [] if as_json else found.verdicts():
        print(line)


@app.command()
def export(
    onnx: Annotated[Path, _option(_RUN, "--onnx", help="The file to write, such as model.onnx.")],
    ckpt: _Path = None,
    model: _Model = None,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    opset: Annotated[int | None, _option(_RUN, "--opset", help="ONNX operator set. Default: PyTorch's choice.")] = None,
    batch: Annotated[str, _option(_RUN, "--batch", help="dynamic, or the one batch size of the file.")] = "dynamic",
    as_json: _Json = False,
) -> None:
    """Write the network as ONNX, after ONNX Runtime has computed the same outputs as PyTorch."""
    with _quiet_libraries():
        from prune_realloc.checkpoint import load_model
        from prune_realloc.export import deployed, export_onnx
        from prune_realloc.session import input_shape

        net = deployed(load_model(model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg)))
        size = int(batch) if batch.isdecimal() else batch
        found = export_onnx(net, onnx, input_shape=input_shape(net), batch=size, opset=opset)
    rows = [
        ("input", f"images {found.input_shape}"),
        ("opset", str(found.opset)),
        ("size", f"{found.size / 1e6:.2f} MB"),
        ("difference to PyTorch", f"{found.difference:.1e} of the largest output"),
    ]
    _print_table(found, as_json, found.path, ("", ""), rows)


def _print_table(
    found: Any, as_json: bool, title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]],
    notes: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """The dataclass `found` as JSON, or the title and `rows` as a table, on stdout; the notes on stderr."""
    import dataclasses

    from rich.table import Table

    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1, default=lambda part: part.model_dump()))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        table = Table(*columns, show_header=any(columns), box=None)
        for row in rows:
            table.add_row(*row)
        console.print(title, soft_wrap=True, markup=False)
        console.print(table)
    for note in notes:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {note}", markup=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the steps write.")] = Path("runs/demo"),
) -> None:
    """The whole circle on the shipped ViT and images: analyze, plan, apply, emit, train, compare."""
    with _quiet_libraries():
        from prune_realloc.analysis import write_file
        from prune_realloc.examine import analyze as run_analyze
        from prune_realloc.planner import plan as run_plan
        from prune_realloc.prune import apply as run_apply
        from prune_realloc.recipe import build_recipe, dump_recipe
        from prune_realloc.train_config import train_config
        from prune_realloc.training import train as run_train
        from prune_realloc.variants import CONTROL, REALLOCATED
        from prune_realloc.variants import emit as run_emit

        _check_folder(out)
        print("1 analyze: score every unit of the shipped ViT on 1,024 of the shipped images\n")
        with _progress("scoring the shipped ViT") as progress:
            found = run_analyze(progress=progress)
        _deliver(found, out, as_json=False)
        print("\n2 plan: widths that use half of the multiply-adds and lose least, and 3 apply: cut, refit, measure\n")
        recipe = build_recipe(found.as_recipe() | {"budget": {"keep_macs": 0.5}})
        recipe = recipe.model_copy(update={"plan": run_plan(found, recipe)})
        write_file(out / "half.yaml", dump_recipe(recipe, "prune-realloc apply half.yaml -o pruned").encode())
        with _progress("cutting and refitting it") as progress:
            done = run_apply(recipe, out=out / "pruned", progress=progress)
        _show_outcome(done, out / "pruned", as_json=False)
        print("\n4 emit: the EfficientViT whose widths follow from what was kept, and the uniform one of equal cost\n")
        wanted = {"macs": 5_000_000, "stem_strides": [2, 2]}
        _show_variants(run_emit(found, target=wanted, out=out / "variants"), out / "variants", as_json=False)
        print("\n5 train: both for three epochs on the shipped images, and 6 compare\n")
        settings = train_config(epochs=3, batch_size=64)
        for name in (REALLOCATED, CONTROL):
            with _training_progress(settings.epochs) as report:
                run_train(out / "variants" / name, settings, data="demo", eval_split="test",
                          out=out / "trained" / name, report=report)  # fmt: skip
    compare([out / "trained" / name for name in (REALLOCATED, CONTROL)])
    print("one seed, three epochs, 4,000 images: a try-out, no evidence")
    print(f"\nreports: {out}/report.html (the analysis), {out}/variants/realloc/model_card.md (the network's card), "
          f"{out}/trained/realloc/report.html (its training)")  # fmt: skip


def main() -> None:
    """Entry point: exit code 0 done, 1 the work failed, 2 the user's input is wrong."""
    try:
        app()
    except InputError as error:
        print(f"prune-realloc: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkFailed as error:
        print(f"prune-realloc: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("prune-realloc: interrupted; nothing was left half-written", file=sys.stderr)
        sys.exit(130)


def _deliver(found: Analysis, out: Path | None, as_json: bool) -> None:
    from prune_realloc.report import component_table, facts, site_table, summary, write_report

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


def _show_outcome(done: Applied, out: Path | None, as_json: bool) -> None:
    from prune_realloc.report import outcome_facts, outcome_table, plan_facts, plan_table

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
        messages.print(f"wrote {out}; once prune_realloc is imported, timm.create_model('local-dir:{out}', "
                       "pretrained=True) loads it", markup=False)  # fmt: skip


def _show_variants(found: Sequence[Variant], out: Path | None, as_json: bool) -> None:
    import dataclasses

    from prune_realloc.report import variant_facts, variant_tables

    if as_json:
        print(json.dumps([{"name": v.name, "network": v.network.model_dump(exclude_none=True),
                           "latency": None if v.latency is None else dataclasses.asdict(v.latency)} for v in found],
                         indent=1))  # fmt: skip
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        for variant in found:
            for table in variant_tables(variant):
                console.print(table)
                console.print()
            for line in variant_facts(variant):
                console.print(line, soft_wrap=True, markup=False)
    if out is not None:
        for variant in found:
            print(f"wrote {out / variant.name / 'realloc'} and {out / variant.name / 'control'}", file=sys.stderr)


def _is_main() -> bool:
    """Whether this process speaks and writes for all that share its job."""
    return int(os.environ.get("RANK", "0")) == 0


def _check_folder(folder: Path) -> None:
    """Before the work, not after it."""
    from prune_realloc.analysis import make_folder, write_file
    from prune_realloc.training import STATE_FILE

    make_folder(folder)
    if (folder / STATE_FILE).exists():
        raise InputError(f"output {str(folder)!r} holds a training run; choose another folder")
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()


def _pairs(items: list[str] | None, flag: str = "model-arg", example: str = "num_heads=6") -> dict[str, Any]:
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


def _preprocess(mean: str | None, std: str | None, interpolation: str | None, crop_pct: float | None) -> dict[str, Any]:
    values = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "interpolation": interpolation,
              "crop_pct": crop_pct}  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name} {text!r} is not a list of numbers, such as 0.485,0.456,0.406") from error


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=sys.stderr.isatty(), disable=not _is_main()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Warnings and log lines of the libraries below are theirs to mend; ours go through notes and errors."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("timm").setLevel(logging.ERROR)
        yield
