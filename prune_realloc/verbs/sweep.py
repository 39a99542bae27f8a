"""The verb `sweep`: a recipe and several budgets -> the trade-off between accuracy and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import make_folder
from prune_realloc.core.names import Progress
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import Inputs
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.objectives import Loss
from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.curve import CURVE_FILE, Point, Sweep
from prune_realloc.results.latency_tables import Tables
from prune_realloc.results.opening import Reading
from prune_realloc.verbs.own import Own, Score, plain_taken_of
from prune_realloc.verbs.staged import Staged, staged


def sweep(
    recipe: Recipe,
    *,
    budgets: Sequence[float],
    model: nn.Module | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    score: Score | None = None,
    inputs: Inputs | None = None,
    out: str | Path | None = None,
    eval_split: str = "validation",
    eval_samples: int = 5000,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    amp: bool = False,
    timed: bool = False,
    tables: Tables | None = None,
    progress: Progress | None = None,
    report: Callable[[Point], None] | None = None,
) -> Sweep:
    """Examine a network once, and carry the recipe out at each budget as `apply` does.

    Where widths follow damage, the uniform network that each point is judged against is measured too.

    The other arguments are those of `apply`. A plan in the recipe is made again for each budget.

    Args:
        budgets: shares of the source's cost, of the kind that the recipe's budget counts, else MACs.
        out: folder for a recipe a point (`50.yaml`), `sweep.json` and `sweep.png`, written after each point.
        report: called with each point when it is done.

    Raises:
        InputError: a budget is out of range, given twice or cannot be met, there are no images to measure on, or `out`
            holds another sweep.
    """
    recipes = _recipes(recipe, budgets)
    folder = None if out is None else _fresh(Path(out))
    started = time.perf_counter()
    with staged(
        recipe.model_copy(update={"plan": None}),
        model=model,
        own=Own(batches=batches, loss=loss, inputs=inputs, score=score, reads_logits=True),
        reading=Reading(batch_size=batch_size, workers=workers, progress=progress),
        eval_split=eval_split,
        eval_samples=eval_samples,
        device=device,
        amp=amp,
        tables=tables or Tables(),
        check=_require_images,
    ) as stage:
        recipes = {share: one.model_copy(update={"data": stage.recipe.data}) for share, one in recipes.items()}
        _require_met(stage, recipes)
        done = Sweep(
            kind=_kind(recipe),
            examination_seconds=time.perf_counter() - started,
            notes=tuple(dict.fromkeys(stage.notes)),
            taken=plain_taken_of(stage.net, stage.images),
        )
        for share, one in recipes.items():
            point = _point(stage, share, one, timed)
            done = done.with_point(point)
            if folder is not None:
                done.write(folder)
            if report is not None:
                report(point)
    return done


def _recipes(recipe: Recipe, budgets: Sequence[float]) -> dict[float, Recipe]:
    """Budget -> the recipe without a plan at it."""
    if not budgets:
        raise InputError("budgets is empty; give shares of the source's cost, such as 0.8 0.5")
    for share in budgets:
        if not 0 < share < 1:
            raise InputError(f"budgets: {share:g} is no share to cut to; give numbers between 0 and 1, without either")
        if list(budgets).count(share) > 1:
            raise InputError(f"budgets: {share:g} is given twice; leave one of them out")
    if recipe.budget is not None and len(recipe.budget.counted) > 1:
        limited = " and ".join(recipe.budget.counted)
        raise InputError(f"budget: it limits {limited}, and a sweep varies one; leave the others out of the recipe")
    conditions = {} if recipe.budget is None else recipe.budget.conditions()
    field = f"keep_{_kind(recipe)}"
    wanted = {share: Budget.model_validate({field: share} | conditions) for share in budgets}
    return {share: recipe.model_copy(update={"plan": None, "budget": budget}) for share, budget in wanted.items()}


def _kind(recipe: Recipe) -> str:
    """What the budgets are shares of: the first that the recipe limits."""
    return DEFAULT_KIND if recipe.budget is None else recipe.budget.counted[0]


def _fresh(folder: Path) -> Path:
    make_folder(folder)
    if (folder / CURVE_FILE).exists():
        raise InputError(f"output {str(folder)!r} holds a sweep; choose another folder")
    return folder


def _require_images(net: nn.Module, images: Calibration | None) -> None:
    if images is None:
        raise InputError("sweep measures every point on images; give --data, or in Python batches=")


def _require_met(stage: Staged, recipes: dict[float, Recipe]) -> None:
    """Raises InputError where a budget cannot be met: before the work of the others."""
    for share, recipe in recipes.items():
        try:
            plan(stage.seen.analysis, recipe, stage.table)
        except InputError as error:
            raise InputError(f"budgets: {share:g}: {error}") from error


def _point(stage: Staged, share: float, recipe: Recipe, timed: bool) -> Point:
    started = time.perf_counter()
    done = stage.carry_out(recipe, timed=timed, controlled=True)
    numbers = {name: value for name, value in done.summary().items() if name != "taken"}
    numbers["notes"] = [note for note in numbers["notes"] if note not in stage.notes]
    return Point(budget=share, recipe=done.recipe, numbers=numbers, seconds=time.perf_counter() - started)
