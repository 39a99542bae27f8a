"""The verb `apply`: a recipe and a checkpoint -> a physically smaller network, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.checkpoints.rebuild import check_rebuild, is_of_timm
from prune_realloc.checkpoints.save import save_pruned, save_weights
from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import require_at_least
from prune_realloc.core.names import RECIPE_FILE, RESULT_FILE, UNITS_FILE, Progress
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import Inputs, OwnBatches
from prune_realloc.data.stream import ImageStream
from prune_realloc.data.unseen import Unseen, open_unseen
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, find_host
from prune_realloc.families.inputs import input_shape
from prune_realloc.planning.plan import axes_named
from prune_realloc.pruning.examine import Examined, examine
from prune_realloc.pruning.objectives import Loss, is_classifier
from prune_realloc.pruning.scorers import GRADIENT_SCORERS, WEIGHT_SCORERS
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.pruning.units import units_file
from prune_realloc.recipe.document import Recipe, Source
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.bench import Bench, bench
from prune_realloc.results.evaluate import Evaluation, measure
from prune_realloc.results.opening import Reading, is_shipped, open_network
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import evaluation_mode
from prune_realloc.verbs.applied import Applied, Pair
from prune_realloc.verbs.carry_out import (
    Result,
    best_judged,
    carry_out,
    check_fit,
    few_images_note,
    lawful_plan,
)
from prune_realloc.verbs.judge import Judge, Judges, judges_for
from prune_realloc.verbs.own import Own, Score, open_calibration, plain_taken_of

_IDENTITY = ("architecture", "weights_sha256", "input_size", "num_classes")
"""Fields of a recipe's source that say what the network was."""


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
        batches, loss, inputs: as in `analyze`; instead of the recipe's images.
        score: of a network: a number, larger is better. Reported of the source and of the result.
        out: folder for the pruned network, the recipe as carried out, the units that are left, and the numbers. Of a
            network of your own it has no `config.json`: `cut_to_widths` builds it again, as docs/own-network.md says.
        eval_split, eval_samples: images of the recipe's data set that the outcome is measured on; those that layers
            were fitted on are left out.
        timed: measure latency at batch 1 and 32.

    Raises:
        InputError: the recipe does not fit the network, the budget cannot be met, or an option cannot be used.
    """
    require_at_least("eval_samples", eval_samples, 1)
    reading = Reading(batch_size=batch_size, workers=workers, progress=progress)
    target = pick_device(device)
    net = adopted(_open_source(recipe.source) if model is None else model)
    own = Own(batches=batches, loss=loss, inputs=inputs, score=score, reads_logits=True)
    own.check(recipe.data)
    if recipe.data.name is None and model is None and batches is None and is_shipped(recipe.source):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": "demo"})})
    images = open_calibration(net, own, recipe.data, reading, recipe.scorer)
    notes = check_fit(recipe, net, given=model is not None)
    if out is not None and _builds_again(net):
        check_rebuild(net)
    unseen = _unseen(recipe, net, images, eval_split, eval_samples)
    judges = judges_for(net, images, own, predicts=is_classifier(net))
    with evaluation_mode(net, device=target), _memory_named(images, batch_size):
        seen = _examined(recipe, net, images, own, amp)
        notes += [*seen.analysis.notes, *_rotation_notes(recipe, images)]
        planned, result, more = _pruned(recipe, seen, images, judges.decisive())
        found, outcome = _measured(result.network, net, unseen, images, eval_split, judges)
        pairs = {name: _pair(judge, net, result.network) for name, judge in judges.own().items()}
        timing = _timed(net, result.network, images, target.type) if timed else None
    result.network.to("cpu")
    source = Source(**{key: seen.analysis.model[key] for key in _IDENTITY})
    if model is None:
        source = recipe.source.model_copy(update={key: getattr(source, key) for key in _IDENTITY})
    applied = _applied(
        planned.model_copy(update={"source": source}),
        net,
        result,
        seen,
        found,
        timing,
        [*notes, *more, *outcome],
        pairs,
        plain_taken_of(net, images),
    )
    if out is not None:
        _write(applied, out)
    return applied


def _memory_named(images: Calibration | None, batch_size: int) -> AbstractContextManager[None]:
    if images is None:
        return out_of_memory_named(batch_size)
    return out_of_memory_named(images.loading["batch_size"], images.smaller)


def _open_source(source: Source) -> nn.Module:
    # a folder says itself what it holds: it may be the named model after an earlier cut
    if source.ckpt is not None and source.model is not None and Path(source.ckpt).is_dir():
        source = source.model_copy(update={"model": None, "model_args": {}})
    return open_network(source)


def _unseen(recipe: Recipe, net: nn.Module, images: Calibration | None, split: str, count: int) -> Unseen | None:
    """The images of the data set to measure the outcome on, where there is one to measure."""
    if not isinstance(images, ImageStream) or not is_classifier(net):
        return None
    return open_unseen(net, images, str(recipe.data.name), recipe.data.data_dir, split, count)


def _examined(recipe: Recipe, net: nn.Module, images: Calibration | None, own: Own, amp: bool) -> Examined:
    return examine(
        net,
        None if recipe.scorer in WEIGHT_SCORERS else images,
        scorer=recipe.scorer,
        seed=recipe.data.seed,
        loss=own.loss if recipe.scorer in GRADIENT_SCORERS else None,
        amp=amp,
        rotate=recipe.compensate.rotate and images is not None,
        refit=recipe.compensate.refit and images is not None,
    )


def _rotation_notes(recipe: Recipe, images: Calibration | None) -> list[str]:
    if not recipe.compensate.rotate or images is None or recipe.scorer in GRADIENT_SCORERS:
        return []
    return [f"scorer {recipe.scorer} sees no gradients, so Q/K and V were not rotated"]


def _pruned(
    recipe: Recipe, seen: Examined, images: Calibration | None, judge: Judge | None
) -> tuple[Recipe, Result, list[str]]:
    """The recipe with its plan, what it makes of the network, and notes.

    Args:
        judge: a plan that is made here is carried out only where none of the other ways is judged better.
    """
    given = recipe.plan is not None
    recipe, planned, notes = lawful_plan(recipe, seen)
    result = carry_out(planned, seen, recipe, images)
    if not given and recipe.budget is not None and recipe.allocation == "damage" and judge is not None:
        assert images is not None
        recipe, result, note = best_judged(result, seen, recipe, images, judge)
        notes.append(note)
    notes += few_images_note(result, seen, recipe, images)
    return recipe.model_copy(update=axes_named(seen.analysis, recipe) | {"plan": result.plan}), result, notes


def _measured(
    pruned: nn.Module, net: nn.Module, unseen: Unseen | None, images: Calibration | None, split: str, judges: Judges
) -> tuple[Evaluation | None, list[str]]:
    """The pruned network against its source, and notes."""
    if images is None:
        return None, ["without --data nothing was rotated or refitted, and the outcome was not measured"]
    if isinstance(images, OwnBatches):
        notes = [*images.notes(), *judges.notes()]
        classifier = is_classifier(net)
        return measure(pruned, images, labelled=images.classes is not None, source=net) if classifier else None, notes
    if unseen is None:
        return None, ["the model has no classifier: the outcome was not measured"]
    found = measure(pruned, unseen, labelled=unseen.stream.classes is not None, source=net)
    notes = unseen.stream.notes()
    if unseen.left_out:
        notes.append(f"{unseen.left_out} of the images of split {split!r} were fitted on and left out")
    if not found.samples:
        notes.append("measured on the calibration images, the data has no others; see --eval-split")
        found = measure(pruned, images, labelled=images.classes is not None, source=net)
    return found, notes


def _timed(net: nn.Module, pruned: nn.Module, images: Calibration | None, device: str) -> Bench:
    shape = images.shape if isinstance(images, OwnBatches) else input_shape(net)
    return bench({"source": net, "pruned": pruned}, shape, device=device, seconds=2.0)


def _pair(judge: Judge, net: nn.Module, pruned: nn.Module) -> Pair:
    return Pair(source=judge(net), achieved=judge(pruned))


def _applied(
    recipe: Recipe,
    net: nn.Module,
    result: Result,
    seen: Examined,
    found: Evaluation | None,
    timing: Bench | None,
    notes: list[str],
    own: dict[str, Pair],
    taken: Mapping[str, Mapping[str, Any]],
) -> Applied:
    inner = find_host(result.network).inner
    return Applied(
        network=result.network,
        units=result.units,
        recipe=recipe,
        source_cost=seen.analysis.cost(),
        cost=total_cost(family_of(inner).describe(inner).terms, widths(find_sites(inner))),
        source_bytes=_bytes(net),
        bytes=_bytes(result.network),
        evaluation=found,
        timing=timing,
        notes=tuple(dict.fromkeys(notes)),
        taken=taken,
        **own,
    )


def _bytes(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


def _builds_again(net: nn.Module) -> bool:
    """Can others build it, from a file? One of the user's own, or inside one, its maker alone can."""
    return find_host(net).stands_alone and is_of_timm(net)


def _write(applied: Applied, out: str | Path) -> None:
    """The pruned network with its recipe and its numbers."""
    text = dump_recipe(applied.recipe, f"prune-realloc apply {RECIPE_FILE} -o pruned")
    numbers = json.dumps(applied.summary(), indent=1) + "\n"
    files = {RECIPE_FILE: text.encode(), RESULT_FILE: numbers.encode(), UNITS_FILE: units_file(applied.units)}
    save = save_pruned if _builds_again(applied.network) else save_weights
    save(applied.network, out, files)
