"""The verb `grow`: train, see what pruning keeps, move widths at equal cost, hand on the weights, and train again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from prune_realloc.core.analysis import META_FILE
from prune_realloc.core.cost import KINDS
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.files import clear_half_written, make_folder
from prune_realloc.core.names import RECIPE_FILE, STATE_FILE
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.grown import unmeasured
from prune_realloc.recipe.reader import load_recipe
from prune_realloc.recipe.target import Target
from prune_realloc.results.trail import ROUND, Round, Trail
from prune_realloc.runtime.device import pick_device
from prune_realloc.runtime.distributed import place, process_group
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.outputs import LAST, Report
from prune_realloc.training.state_file import FREE
from prune_realloc.training.teacher import is_stored
from prune_realloc.verbs.growth import Growth, GrowthData, open_efficientvit, require_shown, shown_top1

_ALIKE = 0.02
"""Shares kept that differ by less ask for no other widths."""
_OF_OTHER_VERBS = (STATE_FILE, META_FILE, "config.json", RECIPE_FILE)
"""Files that tell that a folder was written by another verb."""


def grow(
    variant: str | Path,
    config: TrainConfig,
    images: GrowthData,
    *,
    out: str | Path,
    rounds: int = 3,
    teacher: str | Path | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Trail:
    """Train an EfficientViT (MSRA), and so many times move its widths to where pruning keeps them and train it again.

    Every network costs at most what the first does, and no more than 1 % less. Started again with the same arguments,
    it goes on where it stopped.

    Args:
        variant: folder with the `config.json` of an EfficientViT (MSRA), as `emit` writes it, or a checkpoint of one;
            the target of a recipe beside it says which kind of cost is kept, and bounds the widths.
        config: how each network is trained; its seed decides every draw.
        out: folder to write to: `round-0/run` and `analysis`, `round-1/network`, `run` and `analysis` and so on, and
            the trail of all rounds.
        rounds: how many times widths move; one more network is trained.
        teacher: checkpoint, `demo`, or timm name of the network that each of them is distilled from.
        teacher_options: as in `train`.
        report: as in `train`.

    Raises:
        InputError: the variant cannot grow, a trained network shows nothing, or `out` was written otherwise.
        WorkFailed: a training failed; what was done stands.
    """
    require_at_least("rounds", rounds, 1)
    if teacher_options and teacher is None:
        raise InputError("teacher_options: no teacher is named; give one with --teacher")
    with process_group(pick_device(device)):
        if place()[1] > 1:
            raise InputError("grow works in one process; start it without accelerate launch or torchrun")
    first, target, folder = _opened(variant), _target(variant), Path(out)
    settings = {"variant": str(variant), "network": first.args(), "rounds": rounds, **vars(images)}
    settings |= {"teacher": None if teacher is None else str(teacher), "target": target.model_dump(mode="json")}
    settings |= {"teacher_options": dict(teacher_options) if teacher_options else None}
    settings |= {f"config.{key}": value for key, value in config.model_dump(exclude={*FREE}).items()}
    trail = _begun(folder, json.loads(json.dumps(settings)))  # with lists for tuples
    growth = Growth(
        config=config,
        images=images,
        target=target,
        teacher=teacher,
        teacher_options=teacher_options,
        device=device,
        report=report,
    )
    for number in range(len(trail.rounds), rounds + 1):
        own = folder / f"{ROUND}{number}"
        trained = growth.trained(own / "network" if number else Path(variant), own / "run")
        net = open_efficientvit(own / "run" / LAST)
        cost = {kind: net.config.cost.of(kind) for kind in KINDS}
        found = Round(args=net.config.args(), cost=cost, top1=shown_top1(trained), loss=trained.loss)
        done = (*trail.rounds, found)
        if number < rounds:
            require_shown(net, trained, number)
            limit, following = done[0].cost[growth.kind], folder / f"{ROUND}{number + 1}" / "network"
            kept = growth.write_next(net, growth.analysed(own), limit, following)
            done = (*trail.rounds, replace(found, kept=kept))
        trail = replace(trail, rounds=done, notes=_notes(done), taken=trained.taken)
        trail.write(folder)
    return trail


def _opened(variant: str | Path) -> EfficientVitConfig:
    """What is to grow.

    Raises:
        InputError: there is no such file or folder, it is no EfficientViT (MSRA) with a classifier, or one whose
            weights cannot be handed on.
    """
    name = f"variant {str(variant)!r}"
    if not is_stored(variant):
        raise InputError(f"{name} does not exist; give the folder of an EfficientViT (MSRA), or a checkpoint of one")
    config = open_efficientvit(variant).config
    if not config.num_classes:
        raise InputError(f"{name} has no classifier, and is to be trained on labels; give one with num_classes")
    for stage in range(len(config.depth)):
        heads = sorted({block.heads for block in config.blocks if block.stage == stage})
        if len(heads) > 1:
            raise InputError(
                f"{name}: stage {stage} has blocks of {heads} heads, so weights cannot be handed on; give one with as "
                "many in all blocks of a stage"
            )
    return config


def _target(variant: str | Path) -> Target:
    """Kind of cost and bounds, from the recipe beside the variant's network; else the defaults."""
    recipe = Path(variant) / RECIPE_FILE
    found = load_recipe(recipe).target if recipe.is_file() else None
    return (found or Target()).model_copy(update={"network": None})


def _begun(folder: Path, settings: Mapping[str, Any]) -> Trail:
    """The trail of these settings, as far as it has come.

    Raises:
        InputError: the folder holds that of others, or what another verb wrote.
    """
    make_folder(folder)
    clear_half_written(folder)
    trail = Trail.read(folder)
    if trail is None:
        for name in _OF_OTHER_VERBS:
            if (folder / name).exists():
                raise InputError(f"output {str(folder)!r} holds {name}, of another verb; choose another folder")
        trail = Trail(settings=settings)
        trail.write(folder)
    for name in settings:
        have, want = trail.settings.get(name), settings[name]
        if have != want:
            raise InputError(
                f"output {str(folder)!r} has grown with other settings: {name} is {have!r} there, {want!r} now; choose "
                "another folder, or remove it"
            )
    return trail


def _notes(rounds: Sequence[Round]) -> tuple[str, ...]:
    """What was not measured, and why widths did not move."""
    names = dict.fromkeys(name for found in rounds if found.kept is not None for name in unmeasured(found.kept))
    notes = [f"{name}: no units of its own are measured; it keeps its relation to the channels" for name in names]
    for number, (before, after) in enumerate(pairwise(rounds), 1):
        if before.config == after.config and before.kept:
            notes.append(f"round {number} has the widths of round {number - 1}: {_why_still(before.kept)}")
    return tuple(notes)


def _why_still(kept: Mapping[str, float]) -> str:
    low, high = min(kept.values()), max(kept.values())
    if high - low < _ALIKE:
        return f"pruning keeps one share of all of them, {low:.0%} to {high:.0%}"
    return (
        f"pruning keeps {low:.0%} to {high:.0%} of them, and between the multiples and the least widths no other "
        "network of this cost follows from that; begin with a wider one, or with a smaller round_to in the recipe "
        "beside it"
    )
