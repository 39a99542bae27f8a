"""The verb `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prune_realloc.cli.console import print_table, quiet_libraries


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
    with quiet_libraries():
        from prune_realloc.training.compare import compare as run
        from prune_realloc.training.compare import with_latency
        from prune_realloc.training.plot import write_plot

        groups = run(runs, control)
        groups = with_latency(groups) if timed else groups
    if plot is not None:
        write_plot(groups, plot)
    several = len({group.control for group in groups if group.control}) > 1
    columns = [
        "",
        "seeds",
        "top-1 %",
        "95 %",
        "to the control, points",
        "95 %",
        *(["control"] if several else []),
        "MACs",
        "params",
        *(["ms, batch 1"] if timed else []),
    ]
    rows = []
    for g in groups:
        difference = "" if g.difference is None else f"{100 * g.difference:+.2f}"
        rows.append(
            (
                g.name,
                str(len(g.seeds)),
                f"{100 * g.mean:.2f}",
                _half(g.half_width),
                difference,
                _half(g.difference_half_width),
                *([g.control or ""] if several else []),
                f"{g.macs:,}",
                f"{g.params:,}",
                *([f"{g.latency_ms:.2f}"] if timed else []),
            )
        )
    if as_json:
        import dataclasses

        print(json.dumps([dataclasses.asdict(group) for group in groups], indent=1))
        return
    notes = tuple(
        f"{g.name} and {g.control} have no seed in common, so there is no difference"
        for g in groups
        if g.control is not None and g.difference is None
    )
    notes += tuple(
        f"{g.name} and {g.control} were trained otherwise ({g.differs}), so their difference is not the networks' alone"
        for g in groups
        if g.differs is not None
    )
    print_table(None, False, f"runs: {len(runs)}", columns, rows, notes)


def _half(width: float | None) -> str:
    return "" if width is None else f"+-{100 * width:.2f}"
