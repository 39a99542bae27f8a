"""The verb `grow`: train, see what pruning keeps, move widths at equal cost, hand on the weights, and train again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prune_realloc.checkpoints.load import load_model, new_model
from prune_realloc.checkpoints.save import describe, network_files, weights_file
from prune_realloc.core.analysis import META_FILE, Analysis
from prune_realloc.core.cost import DEFAULT_KIND, KINDS
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.files import clear_half_written, make_folder, write_files
from prune_realloc.core.names import EFFICIENTVIT, RECIPE_FILE, STATE_FILE
from prune_realloc.core.structure import site_place
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.evidence import read_evidence
from prune_realloc.planning.grown import grown, unmeasured
from prune_realloc.pruning.inherit import inherit
from prune_realloc.pruning.own_widths import kept_shares
from prune_realloc.recipe.document import DEFAULT_AXES
from prune_realloc.recipe.reader import build_recipe, load_recipe
from prune_realloc.recipe.target import Target
from prune_realloc.results.page import report_files
from prune_realloc.results.trail import Round, Trail
from prune_realloc.runtime.device import pick_device
from prune_realloc.runtime.distributed import place, process_group
from prune_realloc.runtime.global_state import random_state_kept
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.outputs import LAST, Report, Trained
from prune_realloc.training.state_file import FREE
from prune_realloc.training.teacher import is_stored, is_untrained
from prune_realloc.training.train import train
from prune_realloc.verbs.analyze import analyze

_OF_OTHER_VERBS = (STATE_FILE, META_FILE, "config.json", RECIPE_FILE)
"""Files that tell that a folder was written by another verb."""


@dataclass(frozen=True, kw_only=True)
class GrowthData:
    """The images that networks are trained, scored and evaluated on, as in `training.train`."""

    data: str
    data_dir: str | None = None
    split: str = "train"
    eval_split: str = "validation"
    samples: int | None = None
    class_map: str | None = None
    class_order: str | None = None

    def analysed(self) -> dict[str, Any]:
        """The same as options of `analyze`: images of the part that is trained on."""
        return {name: getattr(self, name) for name in ("data", "data_dir", "split", "class_map", "class_order")}


def grow(
    variant: str | Path,
    config: TrainConfig,
    images: GrowthData,
    *,
    out: str | Path,
    rounds: int = 3,
    teacher: str | Path | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Trail:
    """Train an EfficientViT (MSRA), and so many times move its widths to where pruning keeps them and train it again.

    Every network costs what the first does, within 1 % and never more. Started again with the same arguments, it goes on
    where it stopped.

    Args:
        variant: folder with the `config.json` of an EfficientViT (MSRA), as `emit` writes it, or a checkpoint of one;
            the target of a recipe beside it says which kind of cost is kept, and bounds the widths.
        config: how each network is trained; its seed decides every draw.
        out: folder to write to: `round-0/run` and `analysis`, `round-1/network`, `run` and `analysis` and so on, and
            the trail of all rounds.
        rounds: how many times widths move; one more network is trained.
        teacher: checkpoint, `demo`, or timm name of the network that each of them is distilled from.
        report: as in `train`.

    Raises:
        InputError: the variant cannot grow, a trained network shows nothing, or `out` was written otherwise.
        WorkFailed: a training failed; what was done stands.
    """
    require_at_least("rounds", rounds, 1)
    with process_group(pick_device(device)):
        if place()[1] > 1:
            raise InputError("grow works in one process; start it without accelerate launch or torchrun")
    first, target = _opened(variant), _target(variant)
    settings = {"variant": str(variant), "network": first.args(), "rounds": rounds, **vars(images)}
    settings |= {"teacher": None if teacher is None else str(teacher), "target": target.model_dump(mode="json")}
    settings |= {f"config.{key}": value for key, value in config.model_dump(exclude={*FREE}).items()}
    trail = _begun(Path(out), settings)
    growth = _Growth(config=config, images=images, target=target, teacher=teacher, device=device, report=report)
    source, limit, done = Path(variant), 0, []
    for number in range(rounds + 1):
        folder = Path(out) / f"round-{number}"
        trained = growth.trained(source, folder / "run")
        net = _network(folder / "run" / LAST)
        limit = limit or net.config.cost.of(growth.kind)
        found = _round(net.config, trained)
        if number < rounds:
            _require_shown(net, trained, number)
            analysis = growth.analysed(folder)
            found = replace(found, kept=_kept(net, analysis))
            source = Path(out) / f"round-{number + 1}" / "network"
            growth.write_next(net, analysis, found, limit, source)
        done.append(found)
        trail = replace(trail, rounds=tuple(done), notes=_notes(done))
        trail.write(Path(out))
    return trail


@dataclass(frozen=True, kw_only=True)
class _Growth:
    """What is the same in all rounds."""

    config: TrainConfig
    images: GrowthData
    target: Target
    teacher: str | Path | None
    device: str
    report: Report | None

    @property
    def kind(self) -> str:
        """The kind of cost that stays."""
        return self.target.kind or DEFAULT_KIND

    def trained(self, source: Path, out: Path) -> Trained:
        return train(
            source,
            self.config,
            **vars(self.images),
            out=out,
            teacher=self.teacher,
            device=self.device,
            report=self.report,
        )

    def analysed(self, folder: Path) -> Analysis:
        """The analysis of a round's trained network, read where it is there already."""
        out = folder / "analysis"
        if (out / META_FILE).exists():
            return Analysis.load(out)
        ckpt = str(folder / "run" / LAST)
        options = {name: value for name, value in self.images.analysed().items() if value is not None}
        found = analyze(ckpt=ckpt, **options, seed=self.config.seed, device=self.device)
        make_folder(out)
        clear_half_written(out)
        found.save(out, report_files(found))
        return found

    def write_next(self, net: EfficientVit, analysis: Analysis, found: Round, limit: int, out: Path) -> None:
        """The network that follows from a round, with the weights that survive, unless it is there already."""
        if (out / "config.json").exists():
            return
        assert found.kept is not None
        config = grown(net.config, found.kept, self.target, self.kind, limit)
        with random_state_kept():
            torch.default_generator.manual_seed(self.config.seed)
            fresh: Any = EfficientVit(config)
        inherit(net, fresh, analysis.scores)
        fresh.pretrained_cfg = net.pretrained_cfg
        make_folder(out)
        clear_half_written(out)
        write_files(out, network_files(describe(fresh, EFFICIENTVIT, config.args()), weights_file(fresh)))


def _opened(variant: str | Path) -> EfficientVitConfig:
    """What is to grow.

    Raises:
        InputError: there is no such file or folder, it is no EfficientViT (MSRA), or one whose weights cannot be
            handed on.
    """
    if not is_stored(variant):
        raise InputError(f"variant {str(variant)!r} does not exist; give the folder of an EfficientViT, or a checkpoint")
    config = _network(variant).config
    for stage in range(len(config.depth)):
        heads = sorted({block.heads for block in config.blocks if block.stage == stage})
        if len(heads) > 1:
            raise InputError(
                f"variant {str(variant)!r}: stage {stage} has blocks of {heads} heads, whose weights cannot be handed "
                "on; give one with as many in all blocks of a stage"
            )
    return config


def _network(source: str | Path) -> EfficientVit:
    """The EfficientViT of a file or folder, with new weights where it has none."""
    with random_state_kept():
        net = new_model(source) if is_untrained(source) else load_model(ckpt=None if source == "demo" else source)
    if not isinstance(net, EfficientVit):
        raise InputError(f"variant {str(source)!r} is a {type(net).__name__}; only an EfficientViT (MSRA) grows")
    return net


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
    settings = json.loads(json.dumps(settings))  # with lists for tuples
    make_folder(folder)
    clear_half_written(folder)
    trail = Trail.read(folder)
    if trail is not None:
        for name in (*settings, *trail.settings):
            have, want = trail.settings.get(name), settings.get(name)
            if have != want:
                raise InputError(
                    f"output {str(folder)!r} has grown with other settings: {name} is {have!r} there, {want!r} now; "
                    "choose another folder, or remove it"
                )
        return trail
    for name in _OF_OTHER_VERBS:
        if (folder / name).exists():
            raise InputError(f"output {str(folder)!r} holds {name}, of another verb; choose another folder")
    trail = Trail(settings=settings)
    trail.write(folder)
    return trail


def _round(config: EfficientVitConfig, trained: Trained) -> Round:
    costs = {kind: config.cost.of(kind) for kind in KINDS}
    return Round(args=config.args(), cost=costs, top1=trained.top1, loss=trained.loss)


def _require_shown(net: EfficientVit, trained: Trained, number: int) -> None:
    """Raises InputError where a network is no better than chance, by two standard errors: what it keeps says nothing."""
    chance, images = 1 / count_classes(net), trained.data["validation_images"]
    if trained.top1 <= chance + 2 * (chance * (1 - chance) / images) ** 0.5:
        raise InputError(
            f"round {number}: the trained network is right on {trained.top1:.1%} of {images} images, which is chance, so "
            "it shows nothing; train longer (--set epochs=...), into another folder"
        )


def _kept(net: EfficientVit, analysis: Analysis) -> dict[str, float]:
    """Share kept of each width that was measured, channels among them, as `emit` reads an analysis."""
    present = {site_place(name)[0] for name in analysis.widths}
    axes = [axis for axis in (*DEFAULT_AXES, "embed") if axis in present]
    rules = {axis: {"round_to": 1} for axis in axes}
    recipe = build_recipe({"axes": axes, "rules": rules, "target": {}})
    plan = read_evidence(analysis, recipe)[0].plan
    assert plan is not None
    return {name: round(share, 4) for name, share in kept_shares(net, plan.sites).items()}


def _notes(rounds: list[Round]) -> tuple[str, ...]:
    """What was not measured."""
    names = dict.fromkeys(name for found in rounds if found.kept is not None for name in unmeasured(found.kept))
    return tuple(
        f"{name} is not measured, as it goes with the stream; it keeps its relation to the channels" for name in names
    )
