"""The verb `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_realloc.cli.console import quiet_libraries, say, say_notes, say_taken, show_json, show_lines, show_tables
from prune_realloc.cli.options import (
    BUDGET,
    PLAN,
    RUN,
    Json,
    LatencyFile,
    MeasureLatency,
    MeasureSeconds,
    latency_tables,
    option,
    per_axis,
)
from prune_realloc.cli.values import parse_pairs
from prune_realloc.core.names import MEASURE_SECONDS

if TYPE_CHECKING:
    from prune_realloc.recipe.document import Recipe

_TAKEN = {"budget", "allocation", "axes", "rules", "compensate"}
"""What --recipe gives; the rest is the analysis's."""
_DEFAULT_ALLOCATION = "damage, or per-axis where scores cannot be compared"


def plan(
    analysis: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `analyze -o` wrote.")],
    budget: Annotated[dict[str, Any], BUDGET],
    recipe: Annotated[
        Path | None,
        option(PLAN, "--recipe", help="Recipe to start from: its budget, allocation, axes, rules, compensation."),
    ] = None,
    allocation: Annotated[
        str | None,
        option(
            PLAN,
            "--allocation",
            help=f"damage, uniform or per-axis. Default: {_DEFAULT_ALLOCATION}.",
        ),
    ] = None,
    axes: Annotated[
        str | None,
        option(
            PLAN,
            "--axes",
            help="What may go: some of qk,v,ffn,hidden,heads,embed,block. Default: all but heads and block.",
        ),
    ] = None,
    round_to: Annotated[list[str] | None, per_axis("--round-to", "Multiples, such as ffn=32.")] = None,
    floor: Annotated[
        list[str] | None, per_axis("--floor", "Never fewer, such as qk=16; per head for qk and v.")
    ] = None,
    ceiling: Annotated[list[str] | None, per_axis("--ceiling", "Never more, such as ffn=768.")] = None,
    freeze: Annotated[
        list[str] | None, per_axis("--freeze", "AXIS or AXIS=BLOCKS that stay, such as v or ffn=0-3.")
    ] = None,
    latency_table: LatencyFile = None,
    measure: MeasureLatency = True,
    measure_seconds: MeasureSeconds = MEASURE_SECONDS,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Recipe file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Widths of every site at a budget, each with its reason: a recipe for `apply`."""
    from prune_realloc.core.analysis import Analysis
    from prune_realloc.core.files import write_file
    from prune_realloc.planning.all_axes import all_axes_notes
    from prune_realloc.planning.plan import planned
    from prune_realloc.recipe.reader import build_recipe, load_recipe
    from prune_realloc.recipe.writer import dump_recipe

    found = Analysis.load(analysis)
    base: dict[str, Any] = {}
    if recipe is not None:
        base = load_recipe(recipe).model_dump(exclude_unset=True, exclude_none=True, include=_TAKEN)
    changes: dict[str, Any] = {"budget": budget} if budget else {}
    changes |= {"allocation": allocation} if allocation is not None else {}
    changes |= {"axes": [axis.strip() for axis in axes.split(",")]} if axes is not None else {}
    bounds = {"round_to": round_to, "floor": floor, "ceiling": ceiling}
    rules = _rules(base.get("rules", {}), bounds, freeze or [])
    wanted = build_recipe(found.as_recipe() | base | changes | ({"rules": rules} if rules else {}))
    if latency_table is not None or (wanted.budget is not None and wanted.budget.limits_time):
        with quiet_libraries():  # a plan without times needs no torch
            from prune_realloc.verbs.plan import plan_in_time

            done, notes = plan_in_time(found, wanted, latency_tables(latency_table, measure, measure_seconds))
    else:
        done = planned(found, wanted)
        notes = all_axes_notes(found, wanted, done, None)
    if out is not None:
        write_file(out, dump_recipe(done, f"prune-realloc apply {out.name} -o pruned").encode())
    show_plan(done, as_json)
    say_taken(found.taken)
    say_notes([*found.notes, *notes])
    if out is not None and not as_json:
        say(f"wrote {out}")


def _rules(base: dict[str, Any], bounds: dict[str, list[str] | None], freeze: list[str]) -> dict[str, list[Any]]:
    """Axis -> the rules of a recipe, and after them, so that they win, those of the flags."""
    rules = {axis: list(rs) if isinstance(rs, list) else [rs] for axis, rs in base.items()}
    for field, items in bounds.items():
        for axis, value in parse_pairs(items or [], field, "ffn=32").items():
            rules.setdefault(axis, []).append({field: value})
    for item in freeze:
        axis, _, blocks = item.partition("=")
        rules.setdefault(axis, []).append({"freeze": True} | ({"blocks": blocks} if blocks else {}))
    return rules


def show_plan(recipe: Recipe, as_json: bool = False, *, measured: bool = False) -> None:
    """Print what a planned recipe keeps; `measured`: what the cut costs is printed too."""
    from prune_realloc.results.tables import plan_facts, plan_table

    if as_json:
        show_json(recipe.model_dump(exclude_none=True))
        return
    show_tables(plan_table(recipe))
    show_lines(*plan_facts(recipe, measured=measured))
