"""The verb `emit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from prune_realloc.cli.console import quiet_libraries
from prune_realloc.cli.options import MODEL, PLAN, RUN, Json, option, require_writable

if TYPE_CHECKING:
    from prune_realloc.results.variant import Variant


def emit(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of an analysis or a pruned network, or a planned recipe.")
    ],
    recipe: Annotated[
        Path | None, option(PLAN, "--recipe", help="Recipe whose target says what is wanted and what may move.")
    ] = None,
    like: Annotated[
        str | None,
        option(PLAN, "--like", help="efficientvit_m0 to m5: depth, heads and kernels; its cost is the budget."),
    ] = None,
    macs: Annotated[str | None, option(PLAN, "--macs", help="Multiply-adds, such as 80M.")] = None,
    params: Annotated[str | None, option(PLAN, "--params", help="Parameters, such as 2.3M.")] = None,
    grid: Annotated[bool, option(PLAN, "--grid", help="One variant for each of M0 to M5.")] = False,
    per: Annotated[str | None, option(PLAN, "--per", help="stage (default) or block: what shares its widths.")] = None,
    img_size: Annotated[int | None, option(MODEL, "--img-size", help="Pixels. Default: the source's.")] = None,
    in_chans: Annotated[int | None, option(MODEL, "--in-chans", help="Channels. Default: the source's.")] = None,
    num_classes: Annotated[int | None, option(MODEL, "--num-classes", help="Default: the source's.")] = None,
    stem_strides: Annotated[
        str | None,
        option(MODEL, "--stem-strides", help="Such as 2,2. Default: about 14 x 14 tokens in the first stage."),
    ] = None,
    inherit: Annotated[
        Path | None,
        option(MODEL, "--inherit", help="The analysed EfficientViT's checkpoint: start with what survives of it."),
    ] = None,
    timed: Annotated[bool, option(RUN, "--bench/--no-bench", help="Measure latency.")] = True,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for the variants.")] = None,
    as_json: Json = False,
) -> None:
    """A new EfficientViT (MSRA) whose widths follow from what pruning keeps, and the uniform control of equal cost."""
    with quiet_libraries():
        from prune_realloc.recipe.reader import load_recipe
        from prune_realloc.verbs.emit import emit as run

        given: dict[str, Any] = {
            "like": like,
            "macs": macs,
            "params": params,
            "per": per,
            "img_size": img_size,
            "in_chans": in_chans,
            "num_classes": num_classes,
        }
        if stem_strides is not None:
            given["stem_strides"] = [int(n) if n.strip().isdecimal() else n for n in stem_strides.split(",")]
        if out is not None:
            require_writable(out)
        found = run(
            source,
            recipe=None if recipe is None else load_recipe(recipe),
            target={key: value for key, value in given.items() if value is not None},
            grid=grid,
            inherit=inherit,
            out=out,
            timed=timed,
            progress=lambda what: print(what, file=sys.stderr),
        )
    show_variants(found, out, as_json)


def show_variants(found: Sequence[Variant], out: Path | None, as_json: bool) -> None:
    import dataclasses

    from prune_realloc.results.tables import variant_facts, variant_tables

    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": v.name,
                        "network": v.network.model_dump(exclude_none=True),
                        "latency": None if v.latency is None else dataclasses.asdict(v.latency),
                    }
                    for v in found
                ],
                indent=1,
            )
        )
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
