"""The verb `plan`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from prune_realloc.cli.options import PLAN, RUN, Json, option, parse_pairs, per_axis

if TYPE_CHECKING:
    pass


def plan(
    analysis: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `analyze -o` wrote.")],
    keep_macs: Annotated[float | None, option(PLAN, "--keep-macs", help="Share of the multiply-adds.")] = None,
    keep_params: Annotated[float | None, option(PLAN, "--keep-params", help="Share of the parameters.")] = None,
    macs: Annotated[str | None, option(PLAN, "--macs", help="Multiply-adds, such as 600M.")] = None,
    params: Annotated[str | None, option(PLAN, "--params", help="Parameters, such as 10M.")] = None,
    recipe: Annotated[
        Path | None,
        option(PLAN, "--recipe", help="Recipe to start from: its budget, allocation, axes, rules, compensation."),
    ] = None,
    allocation: Annotated[
        str | None, option(PLAN, "--allocation", help="damage (default), uniform or per-axis.")
    ] = None,
    axes: Annotated[
        str | None,
        option(PLAN, "--axes", help="What may go: some of qk,v,ffn,heads,embed,block. Default: qk,v,ffn."),
    ] = None,
    round_to: Annotated[list[str] | None, per_axis("--round-to", "Multiples, such as ffn=32.")] = None,
    floor: Annotated[
        list[str] | None, per_axis("--floor", "Never fewer, such as qk=16; per head for qk and v.")
    ] = None,
    ceiling: Annotated[list[str] | None, per_axis("--ceiling", "Never more, such as ffn=768.")] = None,
    freeze: Annotated[
        list[str] | None, per_axis("--freeze", "AXIS or AXIS=BLOCKS that stay, such as v or ffn=0-3.")
    ] = None,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Recipe file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Widths of every site at a budget, each with its reason: a recipe for `apply`."""
    from prune_realloc.core.analysis import Analysis
    from prune_realloc.core.files import write_file
    from prune_realloc.planning.plan import plan as run
    from prune_realloc.recipe.reader import build_recipe, load_recipe
    from prune_realloc.recipe.writer import dump_recipe
    from prune_realloc.results.tables import plan_facts, plan_table

    found = Analysis.load(analysis)
    taken = {"budget", "allocation", "axes", "rules", "compensate"}
    base = (
        {} if recipe is None else load_recipe(recipe).model_dump(exclude_unset=True, exclude_none=True, include=taken)
    )
    given = {"keep_macs": keep_macs, "keep_params": keep_params, "macs": macs, "params": params}
    budget = {key: value for key, value in given.items() if value is not None}
    changes: dict[str, Any] = {"budget": budget} if budget else {}
    changes |= {"allocation": allocation} if allocation is not None else {}
    changes |= {"axes": [axis.strip() for axis in axes.split(",")]} if axes is not None else {}
    rules = {axis: list(rs) if isinstance(rs, list) else [rs] for axis, rs in base.get("rules", {}).items()}
    for field, items in (("round_to", round_to), ("floor", floor), ("ceiling", ceiling)):
        for axis, value in parse_pairs(items, field, "ffn=32").items():
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
