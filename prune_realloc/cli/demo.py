"""The verb `demo`: every step on what the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_realloc.cli.analyze import checked_ranking, show_analysis
from prune_realloc.cli.apply import show_outcome
from prune_realloc.cli.compare import compare
from prune_realloc.cli.console import image_progress, print_table, quiet_libraries, show_lines, training_progress
from prune_realloc.cli.emit import show_variants
from prune_realloc.cli.heads import heads
from prune_realloc.cli.options import require_writable
from prune_realloc.cli.profile import profile, quiet_profiler
from prune_realloc.cli.report import Opened, open_page
from prune_realloc.recipe.document import Data, Source

if TYPE_CHECKING:
    from prune_realloc.core.analysis import Analysis


_EPOCHS = 3
"""Of each training."""
_FEW = 128
"""Images for what takes many passes: the check of the ranking, the sweep, the heads."""
_SECONDS = 0.2
"""Of the profile, for each network and batch size, twice."""
_SHARES = "0.2,0.5"
"""Of attention, in networks of the same cost that are timed."""
_BUDGETS = (0.7, 0.5, 0.3)
"""Of the sweep."""
_MEASURED = 500
"""Images that each point of the sweep is measured on."""


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the steps write.")] = Path("runs/demo"),
    opened: Opened = False,
) -> None:
    """The whole circle on the shipped ViT and images: analyze, plan, apply, sweep, profile, heads, emit, train."""
    require_writable(out)
    quiet_profiler()
    with quiet_libraries():
        found = _analyze(out)
        _plan_and_apply(found, out)
        _explain(found, out)
        _emit(found, out)
        trained = _train(out)
        compare(trained)
        show_lines(f"one seed, {_EPOCHS} epochs, 4,000 images: a try-out, no evidence", "")
        page = _report(out)
    show_lines(f"all of it on one page: {page.resolve().as_uri()}")
    if opened:
        open_page(page)


def _analyze(out: Path) -> Analysis:
    from prune_realloc.verbs.analyze import analyze
    from prune_realloc.verbs.check import checkable

    show_lines("1 analyze: score every unit of the shipped ViT on 1,024 of the shipped images, and try the ranking", "")
    with image_progress("scoring the shipped ViT") as progress:
        found = analyze(progress=progress)
    checked = checked_ranking(checkable(Source(), Data(samples=_FEW), batch_size=32), found)
    show_analysis(found, out, as_json=False, checked=checked)
    return found


def _plan_and_apply(found: Analysis, out: Path) -> None:
    from prune_realloc.core.files import write_file
    from prune_realloc.planning.plan import plan
    from prune_realloc.recipe.reader import build_recipe
    from prune_realloc.recipe.writer import dump_recipe
    from prune_realloc.verbs.apply import apply

    show_lines(
        "", "2 plan: widths that use half of the multiply-adds and lose least, and 3 apply: cut, refit, measure", ""
    )
    recipe = build_recipe(found.as_recipe() | {"budget": {"keep_macs": 0.5}})
    recipe = recipe.model_copy(update={"plan": plan(found, recipe)})
    write_file(out / "half.yaml", dump_recipe(recipe, "prune-realloc apply half.yaml -o pruned").encode())
    with image_progress("cutting and refitting it") as progress:
        done = apply(recipe, out=out / "pruned", progress=progress)
    show_outcome(done, out / "pruned", as_json=False)


def _explain(found: Analysis, out: Path) -> None:
    """What other budgets give, where the time goes, and what heads are worth."""
    from prune_realloc.core.files import make_folder
    from prune_realloc.recipe.reader import build_recipe
    from prune_realloc.results.curve import curve_columns, curve_rows
    from prune_realloc.verbs.sweep import sweep

    show_lines("", "4 sweep: other budgets, each beside its uniform control", "")
    recipe = build_recipe(found.as_recipe() | {"budget": {"keep_macs": 0.5}})
    few = recipe.data.model_copy(update={"samples": _FEW})
    swept = sweep(recipe.model_copy(update={"data": few}), budgets=_BUDGETS, eval_samples=_MEASURED)
    make_folder(out / "curve")
    swept.write(out / "curve")
    print_table(swept, False, f"fitted on {_FEW} images", curve_columns(), curve_rows(swept), swept.notes)
    show_lines("", "5 profile: where the time goes, before and after", "")
    profile(["demo", str(out / "pruned")], seconds=_SECONDS, out=out / "profile")
    show_lines("", "  and what more or less attention would cost", "")
    profile(["demo"], batch=[1], seconds=_SECONDS, sweep_mhsa=_SHARES, out=out / "shares")
    show_lines("", "6 heads: how alike they are, and what each is worth", "")
    heads(Source(), Data(samples=_FEW // 2), out=out / "heads")


def _emit(found: Analysis, out: Path) -> None:
    from prune_realloc.verbs.emit import emit

    show_lines(
        "", "7 emit: the EfficientViT whose widths follow from what pruning shows, and two controls of equal cost", ""
    )
    wanted = {"macs": 5_000_000, "stem_strides": [2, 2]}
    show_variants(emit(found, target=wanted, out=out / "variants"), out / "variants", as_json=False)


def _train(out: Path) -> list[Path]:
    """Folders of the runs."""
    from prune_realloc.results.variant import NETWORKS
    from prune_realloc.training.config import train_config
    from prune_realloc.training.train import train

    show_lines("", f"8 train: all three for {_EPOCHS} epochs on the shipped images, and 9 compare", "")
    settings = train_config(epochs=_EPOCHS, batch_size=64)
    folders = [out / "trained" / name for name in NETWORKS]
    for folder in folders:
        source = out / "variants" / folder.name
        with training_progress(settings.epochs) as report:
            train(source, settings, data="demo", eval_split="test", out=folder, report=report)
    return folders


def _report(out: Path) -> Path:
    """The page of everything, in the place of the one that shows the analysis."""
    from prune_realloc.core.files import write_file
    from prune_realloc.pages.writers import as_html
    from prune_realloc.reporting.report import report

    write_file(out / "report.html", as_html(report([out])))
    return out / "report.html"
