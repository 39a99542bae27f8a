"""A network that was examined once, on which recipes of several budgets can be carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.core.errors import InputError, WorkFailed, require_at_least
from prune_realloc.core.latency import LatencyTable
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import OwnBatches
from prune_realloc.data.stream import ImageStream
from prune_realloc.data.unseen import Unseen, open_unseen
from prune_realloc.families.host import adopted
from prune_realloc.families.inputs import input_shape
from prune_realloc.planning.forecast import missed, outside
from prune_realloc.planning.plan import axes_named
from prune_realloc.pruning.examine import Examined, examine
from prune_realloc.pruning.objectives import is_classifier
from prune_realloc.pruning.scorers import GRADIENT_SCORERS, WEIGHT_SCORERS
from prune_realloc.pruning.sites import cost_of
from prune_realloc.recipe.document import Recipe, Source
from prune_realloc.recipe.plan import PlannedLatency
from prune_realloc.results.bench import Bench, bench
from prune_realloc.results.evaluate import Evaluation, Predictions, measure
from prune_realloc.results.latency_tables import Tables, shapes_of
from prune_realloc.results.opening import Reading, open_network, with_shipped_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import evaluation_mode
from prune_realloc.verbs.applied import Applied, Control, Pair
from prune_realloc.verbs.carry_out import (
    Result,
    best_judged,
    carry_out,
    check_fit,
    features_note,
    lawful_plan,
    tuned,
)
from prune_realloc.verbs.few_images import few_images_notes
from prune_realloc.verbs.judge import Judge, Judges, judges_for
from prune_realloc.verbs.own import Own, open_calibration, plain_taken_of

_IDENTITY = ("architecture", "weights_sha256", "input_size", "num_classes")
"""Fields of a recipe's source that say what the network was."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A network on the device to be used, with all that does not depend on a budget."""

    net: nn.Module
    recipe: Recipe
    """With the images that it is used on."""
    source: Source
    """Where it came from, and what it is."""
    images: Calibration | None
    unseen: Unseen | None
    """What the outcome is measured on, where the data set has other images."""
    eval_split: str
    seen: Examined
    judges: Judges
    predictions: Predictions
    """Of the network, on images that it has been measured on."""
    table: LatencyTable | None
    """Of the network, where the recipe's budget limits time."""
    notes: list[str]

    def carry_out(self, recipe: Recipe, *, timed: bool, controlled: bool = False) -> Applied:
        """Plan where there is no plan, cut, make up for it, measure.

        Args:
            controlled: measure the uniform network too, where one is made to judge by.

        Raises:
            InputError: the budget cannot be met, or what the recipe names cannot be cut.
        """
        net, images = self.net, self.images
        planned, result, uniform, more = _pruned(recipe, self.seen, self.table, images, self.judges.decisive())
        found, outcome = self._measured(result.network)
        if found is not None and self.judges.loss is None:  # else damage is of the caller's loss
            outcome = [*outcome, *outside(result.plan.damage, found.kl, recipe)]
        control = None
        if controlled and uniform is not None:
            known = found if uniform is result else self._measured(uniform.network)[0]
            control = Control(cost=cost_of(uniform.network), evaluation=known)
        pairs = {name: _pair(judge, net, result.network) for name, judge in self.judges.own().items()}
        timing, late = None, list[str]()
        if timed:
            device = next(net.parameters()).device.type
            timing, late = _timed(net, result.network, images, device, result.plan.latency)
        _keep_preprocessing(result.network, recipe)
        result.network.to("cpu")
        return _applied(
            planned.model_copy(update={"source": self.source}),
            net,
            result,
            self.seen,
            found,
            timing,
            [*self.notes, *more, *outcome, *late],
            pairs,
            plain_taken_of(net, images),
            control,
        )

    def _measured(self, pruned: nn.Module) -> tuple[Evaluation | None, list[str]]:
        return _measured(pruned, self.predictions, self.unseen, self.images, self.eval_split, self.judges)


@contextmanager
def staged(
    recipe: Recipe,
    *,
    model: nn.Module | None,
    own: Own,
    reading: Reading,
    eval_split: str,
    eval_samples: int,
    device: str,
    amp: bool,
    tables: Tables,
    check: Callable[[nn.Module, Calibration | None], None],
) -> Iterator[Staged]:
    """Inside, the network lies on the device in evaluation mode; arguments as of `apply`.

    Args:
        own: what the caller brings along; of it the network's logits are read.
        check: called with network and images before the work, to refuse them.
    """
    require_at_least("eval_samples", eval_samples, 1)
    target = pick_device(device)
    net = adopted(_open_source(recipe.source) if model is None else model)
    own.check(recipe.data)
    if model is None and own.batches is None:
        recipe = recipe.model_copy(update={"data": with_shipped_images(recipe.data, recipe.source)})
    images = open_calibration(net, own, recipe.data, reading, recipe.scorer)
    notes = check_fit(recipe, net, given=model is not None)
    check(net, images)
    unseen = _unseen(recipe, net, images, eval_split, eval_samples)
    predictions = Predictions(net)
    judges = judges_for(predictions, images, own, predicts=is_classifier(net))
    with evaluation_mode(net, device=target), _memory_named(images, reading.batch_size):
        seen = _examined(recipe, net, images, own, amp)
        table = None if recipe.plan is not None else tables.of(recipe.budget, shapes_of(seen.analysis), lambda: net)
        times = () if table is None else table.notes
        yield Staged(
            net=net,
            recipe=recipe,
            source=_identified(recipe.source, seen, given=model is not None),
            images=images,
            unseen=unseen,
            eval_split=eval_split,
            seen=seen,
            judges=judges,
            predictions=predictions,
            table=table,
            notes=[
                *notes,
                *seen.analysis.notes,
                *times,
                *_rotation_notes(recipe, images),
            ],
        )


def _identified(source: Source, seen: Examined, given: bool) -> Source:
    """What the network was; of one that was handed over nothing tells where it came from."""
    is_now = {key: seen.analysis.model[key] for key in _IDENTITY}
    return Source(**({} if given else source.model_dump(exclude_unset=True)) | is_now)


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
    recipe: Recipe, seen: Examined, table: LatencyTable | None, images: Calibration | None, judge: Judge | None
) -> tuple[Recipe, Result, Result | None, list[str]]:
    """The recipe with its plan, what it makes of the network, what uniform widths make of it, and notes.

    Args:
        judge: a plan that is made here is carried out only where none of the other ways is judged better.
    """
    given, asked = recipe.plan is not None, "axes" in recipe.model_fields_set
    recipe, planned, notes = lawful_plan(recipe, seen, table)
    result, uniform = carry_out(planned, seen, recipe, images), None
    if not given and recipe.budget is not None and recipe.allocation == "damage" and judge is not None:
        assert images is not None
        judged = best_judged(result, seen, recipe, table, images, judge, asked=asked)
        recipe, result, uniform = judged.recipe, judged.result, judged.uniform
        notes.append(judged.note)
    notes += few_images_notes(result, seen, recipe, images) + features_note(result, seen)
    if recipe.compensate.tune and images is not None:
        result, note = tuned(result, seen, recipe, images, judge)
        notes.append(note)
    recipe = recipe.model_copy(update=axes_named(seen.analysis, recipe) | {"plan": result.plan})
    return recipe, result, uniform, notes


def _measured(
    pruned: nn.Module,
    source: Predictions,
    unseen: Unseen | None,
    images: Calibration | None,
    split: str,
    judges: Judges,
) -> tuple[Evaluation | None, list[str]]:
    """The pruned network against its source, and notes."""
    if images is None:
        return None, ["without --data nothing was rotated, refitted or tuned, and the outcome was not measured"]
    if isinstance(images, OwnBatches):
        notes = [*images.notes(), *judges.notes()]
        if not is_classifier(source.net):
            return None, notes
        return measure(pruned, images, labelled=images.classes is not None, source=source), notes
    if unseen is None:
        return None, [
            "the model has no classifier: the outcome was not measured; train --teacher says how near its features are"
        ]
    found = measure(pruned, unseen, labelled=unseen.stream.classes is not None, source=source)
    notes = unseen.stream.notes()
    if unseen.left_out:
        notes.append(f"{unseen.left_out} of the images of split {split!r} were fitted on and left out")
    if not found.samples:
        notes.append("measured on the calibration images, the data has no others; see --eval-split")
        found = measure(pruned, images, labelled=images.classes is not None, source=source)
    return found, notes


def _keep_preprocessing(pruned: Any, recipe: Recipe) -> None:
    """What was given over the source's preprocessing is the pruned network's own, in its files too."""
    if recipe.data.preprocess and getattr(pruned, "pretrained_cfg", None):
        pruned.pretrained_cfg = dict(pruned.pretrained_cfg) | recipe.data.preprocess


def _timed(
    net: nn.Module, pruned: nn.Module, images: Calibration | None, device: str, planned: PlannedLatency | None
) -> tuple[Bench | None, list[str]]:
    """Both in turns, where a time was planned for as it was planned for; and what must be said of it."""
    shape = images.shape if isinstance(images, OwnBatches) else input_shape(net)
    nets = {"source": net, "pruned": pruned}
    if planned is None:
        found = bench(nets, shape, device=device, seconds=2.0)
        return found, list(found.notes)
    backends, batch_sizes = (planned.runtime,), (planned.batch,)
    try:
        found = bench(
            nets,
            shape,
            batch_sizes=batch_sizes,
            backends=backends,
            threads=planned.threads,
            device=device,
            seconds=2.0,
        )
    except (InputError, WorkFailed) as error:  # it was planned elsewhere; what was cut stands
        return None, [f"the time that was planned for is not measured: {error}"]
    return found, [*found.notes, *missed(planned, found.timings[-1].median_ms)]


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
    control: Control | None,
) -> Applied:
    return Applied(
        network=result.network,
        units=result.units,
        recipe=recipe,
        source_cost=seen.analysis.cost(),
        cost=cost_of(result.network),
        source_bytes=_bytes(net),
        bytes=_bytes(result.network),
        evaluation=found,
        timing=timing,
        notes=tuple(dict.fromkeys(notes)),
        taken=taken,
        explained=result.explained,
        control=control,
        **own,
    )


def _bytes(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
