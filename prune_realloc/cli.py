"""The verbs. Each only translates: flags -> one library call -> files and a table. Heavy imports stay inside."""

from __future__ import annotations

import json
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
from prune_realloc.errors import InputError

if TYPE_CHECKING:
    from prune_realloc.analysis import Analysis

app = typer.Typer(
    help="Find where a trained Vision Transformer keeps the parameters that matter.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip

_MODEL, _DATA, _RUN = "Model", "Data", "Run"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def analyze(
    ckpt: Annotated[
        str | None,
        _option(_MODEL, "--ckpt", help="Checkpoint file, or folder with config.json. Default: the shipped ViT."),
    ] = None,
    model: Annotated[
        str | None,
        _option(_MODEL, "--model", help="timm name, where the checkpoint does not tell it; or hf-hub:NAME."),
    ] = None,
    pretrained: Annotated[
        bool, _option(_MODEL, "--pretrained", help="Fetch the published weights of --model.")
    ] = False,
    ema: Annotated[bool, _option(_MODEL, "--ema", help="Take the averaged weights of a training checkpoint.")] = False,
    img_size: Annotated[int | None, _option(_MODEL, "--img-size", help="Run at another input size.")] = None,
    model_arg: Annotated[
        list[str] | None,
        _option(_MODEL, "--model-arg", help="KEY=VALUE for timm.create_model; may be repeated."),
    ] = None,
    data: Annotated[
        str | None,
        _option(
            _DATA,
            "--data",
            help="Folder of images, 'demo', or a timm data set (torch/..., hfds/..., wds/...).",
        ),
    ] = None,
    split: Annotated[str, _option(_DATA, "--split", help="Part of the data set.")] = "train",
    data_dir: Annotated[str | None, _option(_DATA, "--data-dir", help="Where a named data set lies.")] = None,
    labels: Annotated[
        bool,
        _option(_DATA, "--labels/--no-labels", help="Use the data's labels, or draw them from the model."),
    ] = True,
    mean: Annotated[str | None, _option(_DATA, "--mean", help="Override, comma separated.")] = None,
    std: Annotated[str | None, _option(_DATA, "--std", help="Override, comma separated.")] = None,
    interpolation: Annotated[
        str | None, _option(_DATA, "--interpolation", help="Override: bilinear, bicubic, ...")
    ] = None,
    crop_pct: Annotated[float | None, _option(_DATA, "--crop-pct", help="Override.")] = None,
    scorer: Annotated[
        str,
        _option(_RUN, "--scorer", help="fisher, taylor, loss, activation, magnitude, magnitude-l1 or random."),
    ] = "fisher",
    samples: Annotated[int, _option(_RUN, "--samples", help="How many images.")] = 1024,
    batch_size: Annotated[int, _option(_RUN, "--batch-size", help="Images at a time.")] = 32,
    workers: Annotated[int, _option(_RUN, "--workers", help="Processes that read images.")] = 0,
    device: Annotated[str, _option(_RUN, "--device", help="auto, cpu or cuda.")] = "auto",
    amp: Annotated[bool, _option(_RUN, "--amp", help="Run in bfloat16 autocast.")] = False,
    seed: Annotated[int, _option(_RUN, "--seed", help="Chooses the images and every draw.")] = 0,
    out: Annotated[Path | None, _option(_RUN, "-o", "--out", help="Folder for analysis, picture and report.")] = None,
    as_json: Annotated[bool, _option(_RUN, "--json", help="Print the numbers as JSON instead of tables.")] = False,
) -> None:
    """Score every unit of a trained ViT on real images, and show per block and component what matters.

    Without --ckpt and --model: the ViT and the images that the package ships.
    """
    with _quiet_libraries():
        from prune_realloc.importance import analyze as run

        preprocess = {"mean": _numbers("mean", mean), "std": _numbers("std", std),
                      "interpolation": interpolation, "crop_pct": crop_pct}  # fmt: skip
        if out is not None:
            _check_folder(out)
        with _progress("scoring") as progress:
            found = run(
                model, ckpt=ckpt, pretrained=pretrained, ema=ema, img_size=img_size,
                model_args=_pairs(model_arg or []), data=data, split=split, data_dir=data_dir, labels=labels,
                preprocess=preprocess, scorer=scorer, samples=samples, batch_size=batch_size, workers=workers,
                device=device, amp=amp, seed=seed, progress=progress,
            )  # fmt: skip
        _deliver(found, out, as_json)


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


_Ckpt = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="Checkpoint file, or folder with config.json. Default: the shipped ViT."),
]
_Model = Annotated[str | None, _option(_MODEL, "--model", help="timm name, where the checkpoint does not tell it.")]
_Ema = Annotated[bool, _option(_MODEL, "--ema", help="Take the averaged weights of a training checkpoint.")]
_ImgSize = Annotated[int | None, _option(_MODEL, "--img-size", help="Run at another input size.")]
_ModelArg = Annotated[
    list[str] | None, _option(_MODEL, "--model-arg", help="KEY=VALUE for timm.create_model; may be repeated.")
]
_Source = Annotated[
    str | None,
    _option(_MODEL, "--source", help="Checkpoint of the network it was made from; 'demo' is the shipped ViT."),
]
_Device = Annotated[str, _option(_RUN, "--device", help="auto, cpu or cuda.")]
_Seed = Annotated[int, _option(_RUN, "--seed", help="Chooses the images.")]
_Json = Annotated[bool, _option(_RUN, "--json", help="Print the numbers as JSON instead of a table.")]


@app.command(name="eval")
def evaluate(
    ckpt: _Ckpt = None,
    model: _Model = None,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    source: _Source = None,
    data: Annotated[
        str | None,
        _option(_DATA, "--data", help="Folder of images, 'demo', or a timm data set (torch/..., hfds/..., wds/...)."),
    ] = None,
    split: Annotated[str, _option(_DATA, "--split", help="Part of the data set.")] = "validation",
    data_dir: Annotated[str | None, _option(_DATA, "--data-dir", help="Where a named data set lies.")] = None,
    labels: Annotated[
        bool, _option(_DATA, "--labels/--no-labels", help="Use the data's labels, or only compare with --source.")
    ] = True,
    mean: Annotated[str | None, _option(_DATA, "--mean", help="Override, comma separated.")] = None,
    std: Annotated[str | None, _option(_DATA, "--std", help="Override, comma separated.")] = None,
    interpolation: Annotated[
        str | None, _option(_DATA, "--interpolation", help="Override: bilinear, bicubic, ...")
    ] = None,
    crop_pct: Annotated[float | None, _option(_DATA, "--crop-pct", help="Override.")] = None,
    samples: Annotated[int | None, _option(_RUN, "--samples", help="How many images. Default: all.")] = None,
    batch_size: Annotated[int, _option(_RUN, "--batch-size", help="Images at a time.")] = 64,
    workers: Annotated[int, _option(_RUN, "--workers", help="Processes that read images.")] = 0,
    device: _Device = "auto",
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Top-1, top-5 and loss on labelled images; with --source also how far the model is from its source."""
    with _quiet_libraries():
        from prune_realloc.evaluate import evaluate as run

        preprocess = {"mean": _numbers("mean", mean), "std": _numbers("std", std),
                      "interpolation": interpolation, "crop_pct": crop_pct}  # fmt: skip
        with _progress("evaluating") as progress:
            found = run(
                model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg or []), source=source,
                data=data, split=split, data_dir=data_dir, labels=labels, preprocess=preprocess, samples=samples,
                batch_size=batch_size, workers=workers, device=device, seed=seed, progress=progress,
            )  # fmt: skip
    values = [
        ("top-1", found.top1, "{:.2%}"),
        ("top-5", found.top5, "{:.2%}"),
        ("loss, nats", found.loss, "{:.4f}"),
        ("top-1 of the source", found.source_top1, "{:.2%}"),
        ("agreement with the source", found.agreement, "{:.2%}"),
        ("KL(source || model), nats", found.kl, "{:.4f}"),
    ]
    rows = [(name, form.format(value)) for name, value, form in values if value is not None]
    where = f"{found.samples} images of {(found.data or {})['name']}, {split}"
    _print_table(found, as_json, where, ("", ""), rows, found.notes)


@app.command()
def bench(
    ckpt: _Ckpt = None,
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
    with _quiet_libraries(), _failure_is_exit_code_1():
        from prune_realloc.bench import bench as run
        from prune_realloc.checkpoint import load_model
        from prune_realloc.evaluate import input_shape, load_source, require_same_input

        net = load_model(model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg or []))
        models = {"model": net}
        if source is not None:
            models = {"source": load_source(source, img_size=img_size)} | models
            require_same_input(net, models["source"])
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
    ckpt: _Ckpt = None,
    model: _Model = None,
    ema: _Ema = False,
    img_size: _ImgSize = None,
    model_arg: _ModelArg = None,
    opset: Annotated[int | None, _option(_RUN, "--opset", help="ONNX operator set. Default: PyTorch's choice.")] = None,
    batch: Annotated[str, _option(_RUN, "--batch", help="dynamic, or the one batch size of the file.")] = "dynamic",
    as_json: _Json = False,
) -> None:
    """Write the network as ONNX, after ONNX Runtime has computed the same outputs as PyTorch."""
    with _quiet_libraries(), _failure_is_exit_code_1():
        from prune_realloc.checkpoint import load_model
        from prune_realloc.evaluate import input_shape
        from prune_realloc.export import export_onnx

        net = load_model(model, ckpt=ckpt, ema=ema, img_size=img_size, model_args=_pairs(model_arg or []))
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
    found: Any, as_json: bool, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]],
    notes: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """The dataclass `found` as JSON, or the title and `rows` as a table, on stdout; the notes on stderr."""
    import dataclasses

    from rich.table import Table

    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        table = Table(*columns, show_header=any(columns), box=None)
        for row in rows:
            table.add_row(*row)
        console.print(title, soft_wrap=True, markup=False)
        console.print(table)
    for note in notes:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {note}", markup=False)


@contextmanager
def _failure_is_exit_code_1() -> Iterator[None]:
    from prune_realloc.export import ExportError

    try:
        yield
    except ExportError as error:
        print(f"prune-realloc: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the steps write.")] = Path("runs/demo"),
) -> None:
    """Every step on the shipped ViT and images: analyze, with table, picture and report."""
    with _quiet_libraries():
        from prune_realloc.importance import analyze as run

        _check_folder(out)
        with _progress("scoring the shipped ViT") as progress:
            found = run(progress=progress)
        _deliver(found, out, as_json=False)


def main() -> None:
    """Entry point: exit code 0 done, 1 the work failed, 2 the user's input is wrong."""
    try:
        app()
    except InputError as error:
        print(f"prune-realloc: {error}", file=sys.stderr)
        sys.exit(2)
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


def _check_folder(folder: Path) -> None:
    """Before the work, not after it."""
    from prune_realloc.analysis import make_folder, write_file

    make_folder(folder)
    write_file(folder / ".writable", b"")
    (folder / ".writable").unlink()


def _pairs(items: list[str]) -> dict[str, Any]:
    import yaml

    pairs = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key.isidentifier():
            raise InputError(f"model-arg {item!r} is not KEY=VALUE, such as num_heads=6")
        pairs[key] = yaml.safe_load(value)
    return pairs


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
    with Progress(*columns, console=Console(stderr=True)) as bar:
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
