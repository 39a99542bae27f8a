"""The verb `apply`: a recipe and a checkpoint -> a physically smaller network, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from prune_realloc.checkpoints.save import check_rebuild, save_pruned
from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import require_at_least
from prune_realloc.core.names import RECIPE_FILE, RESULT_FILE, Progress
from prune_realloc.data.stream import ImageStream
from prune_realloc.data.unseen import Unseen, open_unseen
from prune_realloc.families import cuttable_family_of, family_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.examine import Examined, examine
from prune_realloc.pruning.scorers import GRADIENT_SCORERS, WEIGHT_SCORERS
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.document import Recipe, Source
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.bench import Bench, bench
from prune_realloc.results.evaluate import Evaluation, measure
from prune_realloc.results.opening import Reading, is_shipped, open_network, open_stream, require_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import count_classes, evaluation_mode
from prune_realloc.verbs.applied import Applied
from prune_realloc.verbs.carry_out import carry_out, check_fit, no_worse_than_uniform

_IDENTITY = ("architecture", "weights_sha256", "input_size", "num_classes")
"""Fields of a recipe's source that say what the network was."""


def apply(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
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

    Where the recipe has no plan, the network is analysed and planned first; of that plan and the uniform one at the
    same budget, the one with the lower calibration loss (KL to the source) is carried out. The source stays as it is.

    Args:
        model: the network, instead of the recipe's source. With neither, the shipped one and its images.
        out: folder for the pruned network, the recipe as carried out, and the numbers.
        eval_split, eval_samples: images of the recipe's data set that the outcome is measured on; those that layers
            were fitted on are left out.
        timed: measure latency at batch 1 and 32.

    Raises:
        InputError: the recipe does not fit the network, the budget cannot be met, or an option cannot be used.
    """
    require_at_least("eval_samples", eval_samples, 1)
    reading = Reading(batch_size=batch_size, workers=workers, progress=progress)
    target = pick_device(device)
    net = _open_source(recipe.source) if model is None else model
    cuttable_family_of(net)
    if recipe.data.name is None and model is None and is_shipped(recipe.source):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": "demo"})})
    images = _calibration(recipe, net, reading)
    notes = check_fit(recipe, net, given=model is not None)
    if out is not None:
        check_rebuild(net)
    unseen = _unseen(recipe, net, images, eval_split, eval_samples)
    with evaluation_mode(net, device=target), out_of_memory_named(batch_size):
        seen = _examined(recipe, net, images, amp)
        notes += [*seen.analysis.notes, *_rotation_notes(recipe, images)]
        planned, pruned, more = _pruned(recipe, net, seen, images, compared=unseen is not None)
        found, outcome = _measured(pruned, net, unseen, images, eval_split)
        timing = _timed(net, pruned, target.type) if timed else None
    pruned.to("cpu")
    source = Source(**{key: seen.analysis.model[key] for key in _IDENTITY})
    if model is None:
        source = recipe.source.model_copy(update={key: getattr(source, key) for key in _IDENTITY})
    applied = _applied(
        planned.model_copy(update={"source": source}), net, pruned, seen, found, timing, [*notes, *more, *outcome]
    )
    if out is not None:
        _write(applied, out)
    return applied


def _open_source(source: Source) -> nn.Module:
    # a folder says itself what it holds: it may be the named model after an earlier cut
    if source.ckpt is not None and source.model is not None and Path(source.ckpt).is_dir():
        source = source.model_copy(update={"model": None, "model_args": {}})
    return open_network(source)


def _calibration(recipe: Recipe, net: nn.Module, reading: Reading) -> ImageStream | None:
    """The images to score and refit on; with a scorer that looks at none they need not be given."""
    if recipe.data.name is not None:
        return open_stream(net, recipe.data, reading, recipe.data.samples)
    require_images(recipe.data, recipe.scorer)
    return None


def _unseen(recipe: Recipe, net: nn.Module, images: ImageStream | None, split: str, count: int) -> Unseen | None:
    """The images to measure the outcome on, where there is one to measure."""
    if images is None or not count_classes(net):
        return None
    return open_unseen(net, images, str(recipe.data.name), recipe.data.data_dir, split, count)


def _examined(recipe: Recipe, net: nn.Module, images: ImageStream | None, amp: bool) -> Examined:
    return examine(
        net,
        None if recipe.scorer in WEIGHT_SCORERS else images,
        scorer=recipe.scorer,
        seed=recipe.data.seed,
        amp=amp,
        rotate=recipe.compensate.rotate and images is not None,
        refit=recipe.compensate.refit and images is not None,
    )


def _rotation_notes(recipe: Recipe, images: ImageStream | None) -> list[str]:
    if not recipe.compensate.rotate or images is None or recipe.scorer in GRADIENT_SCORERS:
        return []
    return [f"scorer {recipe.scorer} sees no gradients, so Q/K and V were not rotated"]


def _pruned(
    recipe: Recipe, net: nn.Module, seen: Examined, images: ImageStream | None, compared: bool
) -> tuple[Recipe, nn.Module, list[str]]:
    """The recipe with its plan, the network that it makes, and notes.

    Args:
        compared: a plan that is made here is carried out only where the uniform one is not nearer to the source.
    """
    allocation: str = recipe.allocation
    done = recipe.plan or plan(seen.analysis, recipe)
    pruned = carry_out(done, seen, recipe, images)
    notes = []
    if recipe.plan is None and recipe.budget is not None and allocation == "damage" and compared:
        assert images is not None
        allocation, done, pruned, note = no_worse_than_uniform(done, pruned, seen, recipe, images, net)
        notes.append(note)
    return recipe.model_copy(update={"plan": done, "allocation": allocation}), pruned, notes


def _measured(
    pruned: nn.Module, net: nn.Module, unseen: Unseen | None, images: ImageStream | None, split: str
) -> tuple[Evaluation | None, list[str]]:
    """The pruned network against its source, and notes."""
    if images is None:
        return None, ["without --data nothing was rotated or refitted, and the outcome was not measured"]
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


def _timed(net: nn.Module, pruned: nn.Module, device: str) -> Bench:
    return bench({"source": net, "pruned": pruned}, input_shape(net), device=device, seconds=2.0)


def _applied(
    recipe: Recipe,
    net: nn.Module,
    pruned: nn.Module,
    seen: Examined,
    found: Evaluation | None,
    timing: Bench | None,
    notes: list[str],
) -> Applied:
    return Applied(
        network=pruned,
        recipe=recipe,
        source_cost=seen.analysis.cost(),
        cost=total_cost(family_of(pruned).describe(pruned).terms, widths(find_sites(pruned))),
        source_bytes=_bytes(net),
        bytes=_bytes(pruned),
        evaluation=found,
        timing=timing,
        notes=tuple(dict.fromkeys(notes)),
    )


def _bytes(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


def _write(applied: Applied, out: str | Path) -> None:
    """The pruned network with its recipe and its numbers."""
    text = dump_recipe(applied.recipe, f"prune-realloc apply {RECIPE_FILE} -o pruned")
    numbers = json.dumps(applied.summary(), indent=1) + "\n"
    save_pruned(applied.network, out, {RECIPE_FILE: text.encode(), RESULT_FILE: numbers.encode()})
