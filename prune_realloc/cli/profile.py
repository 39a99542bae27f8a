"""The verb `profile`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from prune_realloc.cli.console import quiet_libraries, say, show_json, show_lines, show_tables
from prune_realloc.cli.networks import named, opened
from prune_realloc.cli.options import RUN, Device, Json, Seed, option, require_writable
from prune_realloc.core.errors import InputError

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
    batch: Annotated[list[int] | None, option(RUN, "--batch", help="May be repeated. Default: 1 and 32.")] = None,
    threads: Annotated[int | None, option(RUN, "--threads", help="CPU threads. Default: PyTorch's.")] = None,
    seconds: Annotated[float, option(RUN, "--seconds", help="Per network and batch size, twice.")] = 2.0,
    device: Device = "cpu",
    seed: Seed = 0,
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
        models = _models(networks or ["demo"])
        first, *others = models.values()
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
            _write(found, out)
    if as_json:
        show_json(asdict(found) | {"sentences": found.sentences()})
        return
    show_lines(f"{found.device_name} ({found.device}), {found.threads} threads, images {found.input_shape}")
    show_tables(*_tables(found.passes))
    show_lines("", *found.sentences())


def quiet_profiler() -> None:
    """No lines of the profiler's own; it reads this once, when torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def _models(names: Sequence[str]) -> dict[str, nn.Module]:
    """As the command line names them; of a folder or file the last part of its path, where that tells them apart."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"model {twice!r} is named twice; name each once")
    short = [Path(name).name or name for name in names]
    labels = short if len(set(short)) == len(names) else names
    return {label: opened(named(name)) for label, name in zip(labels, names, strict=True)}


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
