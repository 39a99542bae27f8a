"""The verb `apply`: a recipe and a checkpoint -> a physically smaller network, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.checkpoints.rebuild import check_rebuild, is_of_timm
from prune_realloc.checkpoints.save import save_pruned, save_weights
from prune_realloc.core.files import json_file
from prune_realloc.core.names import RECIPE_FILE, RESULT_FILE, UNITS_FILE, Progress
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import Inputs
from prune_realloc.families.host import find_host
from prune_realloc.pruning.objectives import Loss
from prune_realloc.pruning.units import units_file
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.latency_tables import Tables
from prune_realloc.results.opening import Reading
from prune_realloc.verbs.applied import Applied
from prune_realloc.verbs.own import Own, Score
from prune_realloc.verbs.staged import staged


def apply(
    recipe: Recipe,
    *,
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
    timed: bool = True,
    tables: Tables | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Cut a network as the recipe says, make up for what is lost, and measure before and after.

    Where the recipe has no plan, the network is analysed and planned first; of that plan, the uniform one and, where
    streams were cut unasked, one that leaves them whole, all at the same budget, the one with the largest score is
    carried out; without a score, that of the lowest mean loss, and without a loss, the one nearest to the source (KL
    on images that no layer was fitted on, where the data has any). The source stays as it is.

    Args:
        model: the network, instead of the recipe's source; with `batches`, also one of your own that holds a supported
            one, of which whatever lies inside blocks can be cut. With neither, the shipped one and its images.
        batches: as in `analyze`; instead of the recipe's images.
        loss: as in `analyze`, of these batches.
        inputs: as in `analyze`, of these batches.
        score: of a network: a number, larger is better. Reported of the source and of the result.
        out: folder for the pruned network, the recipe as carried out, the units that are left, and the numbers. Of a
            network of your own it has no `config.json`: `cut_to_widths` builds it again, as docs/own-network.md says.
        eval_split: part of the recipe's data set that the outcome is measured on; images that layers were fitted on are
            left out.
        eval_samples: measure on so many of its images.
        timed: measure latency at batch 1 and 32.
        tables: where the latency table comes from, if a budget limits time; None: the cache, else a measurement.

    Raises:
        InputError: the recipe does not fit the network, the budget cannot be met, or an option cannot be used.
    """

    def check(net: nn.Module, images: Calibration | None) -> None:
        if out is not None and _builds_again(net):
            check_rebuild(net)

    with staged(
        recipe,
        model=model,
        own=Own(batches=batches, loss=loss, inputs=inputs, score=score, reads_logits=True),
        reading=Reading(batch_size=batch_size, workers=workers, progress=progress),
        eval_split=eval_split,
        eval_samples=eval_samples,
        device=device,
        amp=amp,
        tables=tables or Tables(),
        check=check,
    ) as stage:
        applied = stage.carry_out(stage.recipe, timed=timed)
    if out is not None:
        _write(applied, out)
    return applied


def _builds_again(net: nn.Module) -> bool:
    """Can others build it, from a file? One of the user's own, or inside one, its maker alone can."""
    return find_host(net).stands_alone and is_of_timm(net)


def _write(applied: Applied, out: str | Path) -> None:
    """The pruned network with its recipe and its numbers."""
    text = dump_recipe(applied.recipe, f"prune-realloc apply {RECIPE_FILE} -o pruned")
    numbers = json_file(applied.summary())
    files = {RECIPE_FILE: text.encode(), RESULT_FILE: numbers, UNITS_FILE: units_file(applied.units)}
    save = save_pruned if _builds_again(applied.network) else save_weights
    save(applied.network, out, files)
