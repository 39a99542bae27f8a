"""The verb `profile`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from prune_realloc.cli.console import (
    print_table,
    quiet_libraries,
    say,
    show_json,
    show_lines,
    show_tables,
    training_progress,
)
from prune_realloc.cli.networks import named, opened, told
from prune_realloc.cli.options import MODEL, PLAN, RUN, Device, Json, Seed, option, require_writable
from prune_realloc.cli.values import parse_numbers
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import count_threads
from prune_realloc.recipe.document import Source
from prune_realloc.recipe.options import checked_part

if TYPE_CHECKING:
    from torch import nn

    from prune_realloc.results.profile import Pass, Profile


def profile(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoint, folder, timm's name of an architecture, or 'demo'; two: side by side. Default: demo.",
        ),
    ] = None,
    model: Annotated[str | None, option(MODEL, "--model", help="Timm's name of the first one's architecture.")] = None,
    model_arg: Annotated[
        list[str] | None,
        option(MODEL, "--model-arg", metavar="KEY=VALUE", help="Of the first one's architecture; may be repeated."),
    ] = None,
    batch: Annotated[list[int] | None, option(RUN, "--batch", help="May be repeated. Default: 1 and 32.")] = None,
    threads: Annotated[int | None, option(RUN, "--threads", help="CPU threads. Default: PyTorch's.")] = None,
    seconds: Annotated[
        float, option(RUN, "--seconds", help="Per network and batch size, twice; once at most 100 passes.")
    ] = 2.0,
    device: Device = "cpu",
    seed: Seed = 0,
    sweep_mhsa: Annotated[
        str | None,
        option(
            PLAN,
            "--sweep-mhsa",
            metavar="SHARE...",
            help="EfficientViTs of its cost with such shares of attention.",
        ),
    ] = None,
    trained_on: Annotated[
        str | None, option(PLAN, "--train", metavar="DATA", help="Train those networks, 10 epochs each.")
    ] = None,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for numbers and page.")] = None,
    as_json: Json = False,
) -> None:
    """Where the run time goes: by operator and component, and whether memory or arithmetic limits each operator."""
    quiet_profiler()
    with quiet_libraries():
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.evaluate import require_same_input
        from prune_realloc.results.export import deployed
        from prune_realloc.results.profile import profile as run

        if out is not None:
            require_writable(out)
        if sweep_mhsa is None and trained_on is not None:
            raise InputError("train: only the networks of --sweep-mhsa are trained; name shares, or leave it out")
        words, shares = _shares(networks or [], sweep_mhsa)
        words = words or ["demo"]
        how = told(model, model_arg or [], "model-arg")
        models = _models(words, how)
        first, *others = models.values()
        if sweep_mhsa is not None:
            if others:
                raise InputError("sweep-mhsa: takes the cost of one network; name one")
            options = {"batch_sizes": batch or (1, 32), "threads": threads, "device": device, "seconds": seconds}
            _sweep(first, shares, trained_on, out, as_json, options | {"seed": seed, "named": words[0], "how": how})
            return
        for net in others:
            require_same_input(net, first)
        found = run(
            {name: deployed(net) for name, net in models.items()},
            input_shape(first),
            batch_sizes=batch or (1, 32),
            threads=threads,
            device=device,
            seconds=seconds,
            seed=seed,
            progress=lambda what: say(f"profiling {what}"),
        )
        if out is not None:
            _write(replace(found, named=tuple(words), how=how), out)
    if as_json:
        show_json(asdict(found) | {"sentences": found.sentences()})
        return
    show_lines(f"{found.device_name} ({found.device}), {count_threads(found.threads)}, images {found.input_shape}")
    show_tables(*_tables(found.passes))
    show_lines("", *found.sentences())


def _shares(words: Sequence[str], first: str | None) -> tuple[list[str], list[float]]:
    """The networks among the words, and the shares: an option takes one word, those that follow it come with them."""
    if first is None:
        return list(words), []
    more = [word for word in words if word.replace(".", "", 1).isdecimal()]
    return [word for word in words if word not in more], parse_numbers("--sweep-mhsa", ",".join([first, *more]))


def _sweep(
    net: nn.Module, shares: Sequence[float], data: str | None, out: Path | None, as_json: bool, options: dict[str, Any]
) -> None:
    from prune_realloc.training.config import train_config
    from prune_realloc.verbs.sandwiches import sandwiches

    settings = train_config()
    with training_progress(settings.epochs) as report:
        found = sandwiches(
            net,
            shares,
            data=data,
            config=settings,
            out=out,
            report=report,
            progress=lambda what: say(f"timing {what}"),
            **options,
        )
    print_table(found, as_json, found.title, found.columns(), found.rows())
    if out is not None:
        say(f"wrote {out}/sandwiches.json and a folder for each network")


def quiet_profiler() -> None:
    """No lines of the profiler's own; it reads this once, when torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def _models(names: Sequence[str], how: Mapping[str, Any]) -> dict[str, nn.Module]:
    """As the command line names them; of a folder or file the last part of its path, where that tells them apart.

    Args:
        how: the first is opened beside its name.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"model {twice!r} is named twice; name each once")
    short = [Path(name).name or name for name in names]
    labels = short if len(set(short)) == len(names) else names
    first, *others = map(named, names)
    sources = [checked_part(Source, first.model_dump(exclude_none=True) | dict(how)), *others]
    return {label: opened(source) for label, source in zip(labels, sources, strict=True)}


def _write(found: Profile, out: Path) -> None:
    from prune_realloc.core.files import write_files
    from prune_realloc.results.roofline import profile_files

    write_files(out, profile_files(found))
    say(f"wrote {out}/profile.json and profile.html")


def _tables(passes: Sequence[Pass]) -> Iterator[Table]:
    """For each batch size the classes of operators, then the components; the networks side by side."""
    for batch_size in dict.fromkeys(each.batch_size for each in passes):
        own = [each for each in passes if each.batch_size == batch_size]
        yield _table(f"batch {batch_size}: operators", own, [each.kinds for each in own])
        yield _table(f"batch {batch_size}: components", own, [each.components for each in own])


def _table(title: str, passes: Sequence[Pass], parts: Sequence[Mapping[str, float]]) -> Table:
    table = Table(title, box=None)
    for each in passes:
        table.add_column(f"{each.model}, ms", justify="right")
        table.add_column("%", justify="right")
    rows = [{**part, "all": sum(part.values())} for part in parts]
    for name in rows[0]:
        cells = [
            text
            for each, row in zip(passes, rows, strict=True)
            for text in (f"{row[name]:.2f}", f"{100 * row[name] / each.wall_ms:.1f}")
        ]
        table.add_row(name, *cells)
    other = dict.fromkeys(name for each in passes for name in list(each.other)[:5])
    if "other" in rows[0] and other:
        table.caption = f"other: {', '.join(name.removeprefix('aten::') for name in other)}"
    return table
