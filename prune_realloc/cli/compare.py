"""The verb `compare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_realloc.cli.console import print_table, quiet_libraries, show_json
from prune_realloc.cli.controls import show_claim
from prune_realloc.core.errors import InputError
from prune_realloc.training.group import ACCURACY_COLUMNS, accuracy_cells

if TYPE_CHECKING:
    from prune_realloc.training.group import Group


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    control: Annotated[
        str | None,
        typer.Option(
            "--control", help="Group that the others are compared with. Default: named control, and nearest in MACs."
        ),
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option("--controls", help="Group that claims something; every other one is a control for it."),
    ] = None,
    timed: Annotated[bool, typer.Option("--bench", help="Measure latency of the networks, in turns.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Picture to write, .png or .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
) -> None:
    """Accuracy against cost of trained networks: mean and 95 % interval over seeds, paired against the control.

    Runs whose folders differ only in an ending such as -seed1 belong together.
    """
    _check_flags(controls, {"--control": control, "--bench": timed, "--plot": plot})
    with quiet_libraries():
        from prune_realloc.training.compare import compare as run
        from prune_realloc.training.compare import with_latency
        from prune_realloc.training.controls import claim
        from prune_realloc.training.group import group_notes
        from prune_realloc.training.plot import write_plot

        groups = run(runs, control if controls is None else controls)
        groups = with_latency(groups) if timed else groups
    if controls is not None:
        show_claim(claim(groups, controls), as_json)
        return
    if plot is not None:
        write_plot(groups, plot)
    if as_json:
        show_json([dataclasses.asdict(group) for group in groups])
        return
    several = len({group.control for group in groups if group.control}) > 1
    rows = [_row(group, several, timed) for group in groups]
    print_table(None, False, f"runs: {len(runs)}", _columns(several, timed), rows, group_notes(groups))


def _check_flags(controls: str | None, others: Mapping[str, object]) -> None:
    """Refuses what belongs to the other table."""
    given = [flag for flag, value in others.items() if value]
    if controls is not None and given:
        raise InputError(
            f"--controls has a table of its own; leave out {given[0]}, or give it to a compare without --controls"
        )


def _columns(several: bool, timed: bool) -> list[str]:
    """Headings; with several controls one of them says which."""
    return [
        *ACCURACY_COLUMNS,
        *(["control"] if several else []),
        "MACs",
        "params",
        *(["ms, batch 1"] if timed else []),
    ]


def _row(group: Group, several: bool, timed: bool) -> tuple[str, ...]:
    return (
        *accuracy_cells(group),
        *([group.control or ""] if several else []),
        f"{group.macs:,}",
        f"{group.params:,}",
        *([f"{group.latency_ms:.2f}"] if timed else []),
    )
