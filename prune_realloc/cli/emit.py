"""The verb `emit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_realloc.cli.console import quiet_libraries, say, say_notes, say_taken, show_json, show_lines, show_tables
from prune_realloc.cli.options import MODEL, PLAN, RUN, Json, option, require_writable, target_flags
from prune_realloc.core.cost import KINDS
from prune_realloc.recipe.cost_fields import size_help
from prune_realloc.recipe.shipped import beginning

if TYPE_CHECKING:
    from prune_realloc.results.variant import Variant

_LIKE_HELP = "efficientvit_m0 to m5: depth, heads and kernels; its cost is the budget."
_RULE_HELP = (
    "stream: channels by the damage curve of the source's stream, the least inside blocks; its control: swapped. kept: "
    "what pruning kept; its controls: shuffled, inverted. unmeasured: no measurement. Default: stream, if the source "
    "shows it."
)
_PER_HELP = "stage (default) or block: what shares its widths."
_WANTED_HELP = {"like": _LIKE_HELP, "per": _PER_HELP, "rule": _RULE_HELP} | {
    kind.name: size_help(kind, kind.emitted_example) for kind in KINDS.values()
}
_SHAPE_HELP = {"img_size": "Pixels: one number, or HEIGHT,WIDTH. Default: the source's."}


def emit(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of an analysis or a pruned network, or a planned recipe.")
    ],
    *,
    recipe: Annotated[
        Path | None,
        option(
            PLAN,
            "--recipe",
            help="Recipe, or name of a shipped one, whose target says what is wanted and what may move.",
            autocompletion=beginning,
        ),
    ] = None,
    wanted: Annotated[dict[str, Any], target_flags(PLAN, "like", *KINDS, "per", "rule", "seed", help=_WANTED_HELP)],
    grid: Annotated[bool, option(PLAN, "--grid", help="One variant for each of M0 to M5.")] = False,
    shape: Annotated[
        dict[str, Any], target_flags(MODEL, "img_size", "in_chans", "num_classes", "stem_strides", help=_SHAPE_HELP)
    ],
    inherit: Annotated[
        Path | None,
        option(MODEL, "--inherit", help="The analysed EfficientViT's checkpoint: start with what survives of it."),
    ] = None,
    timed: Annotated[bool, option(RUN, "--bench/--no-bench", help="Measure latency.")] = True,
    out: Annotated[Path | None, option(RUN, "-o", "--out", help="Folder for the variants.")] = None,
    as_json: Json = False,
) -> None:
    """A new EfficientViT (MSRA) whose widths follow from what pruning shows, and two controls of equal cost.

    The uniform one has Q = K = V = embed / heads; the unmeasured one the least inside blocks, and channels by a law.
    """
    with quiet_libraries():
        from prune_realloc.core.analysis import META_FILE, Analysis
        from prune_realloc.recipe.reader import load_recipe
        from prune_realloc.verbs.emit import emit as run

        if out is not None:
            require_writable(out)
        shown: Analysis | Path = Analysis.load(source) if (source / META_FILE).is_file() else source
        found = run(
            shown,
            recipe=None if recipe is None else load_recipe(recipe),
            target=wanted | shape,
            grid=grid,
            inherit=inherit,
            out=out,
            timed=timed,
            progress=say,
        )
    show_variants(found, out, as_json)
    if isinstance(shown, Analysis):
        say_taken(shown.taken)


def show_variants(found: Sequence[Variant], out: Path | None, as_json: bool) -> None:
    """Print what was emitted: each network beside its controls."""
    from prune_realloc.results.tables import variant_facts, variant_tables

    if as_json:
        show_json([_numbers(variant) for variant in found])
    else:
        for variant in found:
            show_tables(*variant_tables(variant), width=120)
            show_lines("", *variant_facts(variant))
            say_notes(() if variant.latency is None else variant.latency.notes)
    if out is not None:
        for variant in found:
            say(f"wrote {', '.join(str(out / variant.name / name) for name in variant.configs())}")


def _numbers(variant: Variant) -> dict[str, Any]:
    import dataclasses

    return {
        "name": variant.name,
        "network": variant.network.model_dump(exclude_none=True),
        "latency": None if variant.latency is None else dataclasses.asdict(variant.latency),
    }
