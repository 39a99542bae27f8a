"""The verb `apply`: a recipe and a checkpoint -> a physically smaller network, and what became of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.checkpoints.load import load_model
from prune_realloc.checkpoints.save import check_rebuild, save_pruned
from prune_realloc.core.cost import Cost, total_cost
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.names import RECIPE_FILE, RESULT_FILE, Progress
from prune_realloc.data.batches import Batch
from prune_realloc.data.images import open_images
from prune_realloc.data.stream import ImageStream, use_labels
from prune_realloc.families import cuttable_family_of, family_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import kept_units
from prune_realloc.pruning.examine import Examined, examine
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.scorers import GRADIENT_SCORERS, WEIGHT_SCORERS
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.document import Plan, Recipe, Source
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.bench import Bench, bench
from prune_realloc.results.evaluate import Evaluation, measure
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import count_classes, evaluation_mode, model_identity
from prune_realloc.verbs.calibration import calibration


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a recipe made of a network. What was not measured is None."""

    network: nn.Module
    recipe: Recipe
    """As it was carried out: with its plan."""
    source_cost: Cost
    cost: Cost
    source_bytes: int
    """Of the weights in a file."""
    bytes: int
    evaluation: Evaluation | None
    timing: Bench | None
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        found, done = self.evaluation, self.recipe.plan
        assert done is not None
        return {
            "requested": None if done.requested is None else {done.kind: done.requested},
            "params": {"source": self.source_cost.params, "achieved": self.cost.params},
            "macs": {"source": self.source_cost.macs, "achieved": self.cost.macs},
            "bytes": {"source": self.source_bytes, "achieved": self.bytes},
            "top1": None
            if found is None or found.top1 is None
            else {"source": found.source_top1, "achieved": found.top1},
            "agreement": None if found is None else found.agreement,
            "kl": None if found is None else found.kl,
            "samples": 0 if found is None else found.samples,
            "predicted_damage": done.damage,
            "latency": None if self.timing is None else [dataclasses.asdict(t) for t in self.timing.timings],
            "faster": None if self.timing is None else list(self.timing.verdicts()),
            "notes": list(self.notes),
        }


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
    for name, value, least in (
        ("eval_samples", eval_samples, 1),
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
    ):
        require_at_least(name, value, least)
    target = pick_device(device)
    net = _source(recipe) if model is None else model
    cuttable_family_of(net)
    data = recipe.data.name
    if data is None and model is None and recipe.source.ckpt is None and recipe.source.model is None:
        data = "demo"
    loading: dict[str, Any] = {
        "data_dir": recipe.data.data_dir,
        "labels": recipe.data.labels,
        "preprocess": recipe.data.preprocess,
        "batch_size": batch_size,
        "workers": workers,
        "seed": recipe.data.seed,
        "progress": progress,
    }
    images = (
        None
        if data is None
        else calibration(net, data, split=recipe.data.split, samples=recipe.data.samples, **loading)
    )
    if images is None and recipe.scorer not in WEIGHT_SCORERS:
        raise InputError(
            f"scorer {recipe.scorer!r} looks at images; name some with --data, or use one of {WEIGHT_SCORERS}"
        )
    notes = _check_fit(recipe, net, given=model is not None)
    if out is not None:
        check_rebuild(net)
    test = None
    if images is not None and count_classes(net):
        test = _held_out(net, recipe, str(data), images, eval_split, eval_samples)
    with evaluation_mode(net, device=target), out_of_memory_named(batch_size):
        seen = examine(
            net,
            None if recipe.scorer in WEIGHT_SCORERS else images,
            scorer=recipe.scorer,
            seed=recipe.data.seed,
            amp=amp,
            rotate=recipe.compensate.rotate and images is not None,
            refit=recipe.compensate.refit and images is not None,
        )
        notes += seen.analysis.notes
        if recipe.compensate.rotate and images is not None and recipe.scorer not in GRADIENT_SCORERS:
            notes.append(f"scorer {recipe.scorer} sees no gradients, so Q/K and V were not rotated")
        allocation: str = recipe.allocation
        done = recipe.plan or plan(seen.analysis, recipe)
        pruned = _carry_out(done, seen, recipe, images)
        chosen_here = recipe.plan is None and recipe.budget is not None and allocation == "damage"
        if chosen_here and test is not None and images is not None:
            allocation, done, pruned, note = _no_worse_than_uniform(done, pruned, seen, recipe, images, net)
            notes.append(note)
        found = None
        if test is not None and images is not None:
            found = measure(pruned, test, labelled=test.stream.classes is not None, source=net)
            notes += test.stream.notes()
            if test.left_out:
                notes.append(f"{test.left_out} of the images of split {eval_split!r} were fitted on and left out")
            if not found.samples:
                notes.append("measured on the calibration images, the data has no others; see --eval-split")
                found = measure(pruned, images, labelled=images.classes is not None, source=net)
        elif images is None:
            notes.append("without --data nothing was rotated or refitted, and the outcome was not measured")
        else:
            notes.append("the model has no classifier: the outcome was not measured")
        networks = {"source": net, "pruned": pruned}
        timing = bench(networks, input_shape(net), device=target.type, seconds=2.0) if timed else None
    pruned.to("cpu")
    identity = {key: seen.analysis.model[key] for key in ("architecture", "weights_sha256")}
    source = Source(**identity) if model is not None else recipe.source.model_copy(update=identity)
    planned = recipe.model_copy(
        update={
            "plan": done,
            "allocation": allocation,
            "source": source,
            "data": recipe.data.model_copy(update={"name": data}),
        }
    )
    applied = Applied(
        network=pruned,
        recipe=planned,
        source_cost=seen.analysis.cost(),
        cost=total_cost(family_of(pruned).describe(pruned).terms, widths(find_sites(pruned))),
        source_bytes=_bytes(net),
        bytes=_bytes(pruned),
        evaluation=found,
        timing=timing,
        notes=tuple(dict.fromkeys(notes)),
    )
    if out is not None:
        text = dump_recipe(planned, f"prune-realloc apply {RECIPE_FILE} -o pruned")
        numbers = json.dumps(applied.summary(), indent=1) + "\n"
        save_pruned(pruned, out, {RECIPE_FILE: text.encode(), RESULT_FILE: numbers.encode()})
    return applied


def _source(recipe: Recipe) -> nn.Module:
    source = recipe.source
    # a folder says itself what it holds: it may be the named model after an earlier cut
    name = None if source.ckpt is not None and Path(source.ckpt).is_dir() else source.model
    return load_model(
        name,
        ckpt=source.ckpt,
        pretrained=source.pretrained,
        ema=source.ema,
        img_size=source.img_size,
        model_args=source.model_args if name == source.model else None,
    )


def _check_fit(recipe: Recipe, net: nn.Module, given: bool) -> list[str]:
    """Is the recipe for this network? Returns what must be said."""
    source, planned = recipe.source, recipe.plan
    other = source.weights_sha256 is not None and source.weights_sha256 != model_identity(net)["weights_sha256"]
    if other and not given and source.ckpt is None and source.model is None:
        raise InputError("source: the recipe is for a network that only its maker had at hand; give it with --ckpt")
    if planned is not None:
        _check_plan(planned, net, source.architecture or "another network")
    return ["the weights are not those that the recipe was made for"] if other else []


def _check_plan(planned: Plan, net: nn.Module, meant: str) -> None:
    have = widths(find_sites(net))
    remedy = f"the plan is for {meant}, remove it to plan again"
    for name in (*planned.sites, *have):
        if name not in have or name not in planned.sites:
            raise InputError(f"plan.sites: {'this model' if name not in have else 'the plan'} has no {name}; {remedy}")
        if planned.sites[name].of != have[name]:
            raise InputError(f"plan.sites.{name}: of {planned.sites[name].of}, this model has {have[name]}; {remedy}")
    cost = total_cost(family_of(net).describe(net).terms, have)
    costs = cost.macs if planned.kind == "macs" else cost.params
    if planned.source != costs:
        raise InputError(
            f"plan.source: {planned.source:,} {planned.kind}, this model has {costs:,}, perhaps at "
            f"another input size; {remedy}"
        )


def _carry_out(done: Plan, seen: Examined, recipe: Recipe, images: ImageStream | None) -> nn.Module:
    """Cut, and make up for it as the recipe says."""
    keep = kept_units(seen.curves, {name: site.width for name, site in done.sites.items()}, seen.sites)
    pruned = cut(seen.network, seen.sites, keep)
    if images is not None and (recipe.compensate.refit or recipe.compensate.mean_shift):
        refit_(pruned, seen.network, seen.sites, keep, seen.weights, images, ridge=recipe.compensate.refit)
    return pruned


def _no_worse_than_uniform(
    done: Plan, pruned: nn.Module, seen: Examined, recipe: Recipe, images: ImageStream, net: nn.Module
) -> tuple[str, Plan, nn.Module, str]:
    """Allocation, plan, network and a note: those given, or the uniform ones where these are nearer to the source."""
    try:
        even = plan(seen.analysis, recipe.model_copy(update={"allocation": "uniform"}))
    except InputError as error:
        return "damage", done, pruned, f"there is no uniform plan to compare with ({error})"
    control = _carry_out(even, seen, recipe, images)
    # against the source's own predictions: on labels, noise of either sign drowns what a good cut adds
    planned, uniform = (
        float(measure(network, images, labelled=False, source=net).kl or 0.0) for network in (pruned, control)
    )
    text = f"calibration loss added: {planned:.2g} nats as planned, {uniform:.2g} with uniform widths of equal cost"
    if uniform < planned:
        return "uniform", even, control, f"{text}; the uniform plan was carried out"
    return "damage", done, pruned, text


def _held_out(net: nn.Module, recipe: Recipe, data: str, images: ImageStream, split: str, samples: int) -> _Unseen:
    """The images to measure the outcome on."""
    try:
        source = open_images(data, split=split, data_dir=recipe.data.data_dir, samples=samples + images.wanted)
    except InputError as error:
        raise InputError(f"eval_split {split!r}: {error}; or name another with --eval-split") from error
    labelled = images.classes is not None and use_labels(net, source, True)
    stream = ImageStream(
        source,
        images.prepare,
        classes=count_classes(net) if labelled else None,
        samples=min(samples + images.wanted, source.count),
        progress=images.progress,
        **images.loading,
    )
    return _Unseen(stream, images, samples)


class _Unseen:
    """The first images of a stream that nothing was fitted on, told by their checksums."""

    def __init__(self, stream: ImageStream, fitted: ImageStream, count: int) -> None:
        self.stream, self.fitted, self.count, self.left_out = stream, fitted, count, 0

    def __iter__(self) -> Iterator[Batch]:
        fitted, left = set(self.fitted.checksums), self.count
        self.left_out = 0
        for batch in self.stream:
            fresh = [i for i, checksum in enumerate(batch.checksums) if checksum not in fitted]
            self.left_out += len(batch.checksums) - len(fresh)
            fresh = fresh[:left]
            left -= len(fresh)
            if fresh:
                yield Batch(
                    batch.positions[fresh],
                    batch.images[fresh],
                    batch.labels[fresh],
                    tuple(batch.checksums[i] for i in fresh),
                )
            if not left:
                return


def _bytes(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
