"""The verb `demo`: every step on what the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_realloc.cli.analyze import show_analysis
from prune_realloc.cli.apply import show_outcome
from prune_realloc.cli.compare import compare
from prune_realloc.cli.console import image_progress, quiet_libraries, show_lines, training_progress
from prune_realloc.cli.emit import show_variants
from prune_realloc.cli.options import require_writable
from prune_realloc.cli.report import Opened, open_page

if TYPE_CHECKING:
    from prune_realloc.core.analysis import Analysis


_EPOCHS = 3
"""Of each training."""


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the steps write.")] = Path("runs/demo"),
    opened: Opened = False,
) -> None:
    """The whole circle on the shipped ViT and images: analyze, plan, apply, emit, train, compare."""
    require_writable(out)
    with quiet_libraries():
        found = _analyze(out)
        _plan_and_apply(found, out)
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

    show_lines("1 analyze: score every unit of the shipped ViT on 1,024 of the shipped images", "")
    with image_progress("scoring the shipped ViT") as progress:
        found = analyze(progress=progress)
    show_analysis(found, out, as_json=False)
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


def _emit(found: Analysis, out: Path) -> None:
    from prune_realloc.verbs.emit import emit

    show_lines(
        "", "4 emit: the EfficientViT whose widths follow from what pruning shows, and two controls of equal cost", ""
    )
    wanted = {"macs": 5_000_000, "stem_strides": [2, 2]}
    show_variants(emit(found, target=wanted, out=out / "variants"), out / "variants", as_json=False)


def _train(out: Path) -> list[Path]:
    """Folders of the runs."""
    from prune_realloc.results.variant import NETWORKS
    from prune_realloc.training.config import train_config
    from prune_realloc.training.train import train

    show_lines("", f"5 train: all three for {_EPOCHS} epochs on the shipped images, and 6 compare", "")
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
