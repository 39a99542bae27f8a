"""One round of `grow`: a network is trained and analysed, and the next one follows from what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prune_realloc.checkpoints.load import load_model, new_model
from prune_realloc.checkpoints.save import describe, network_files, weights_file
from prune_realloc.core.analysis import META_FILE, Analysis
from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import clear_half_written, make_folder, write_files
from prune_realloc.core.intervals import is_near_chance
from prune_realloc.core.names import EFFICIENTVIT
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.planning.evidence import read_evidence
from prune_realloc.planning.grown import grown
from prune_realloc.pruning.inherit import inherit
from prune_realloc.pruning.own_widths import kept_shares
from prune_realloc.recipe.target import Target
from prune_realloc.reporting.report import report_files
from prune_realloc.runtime.global_state import random_state_kept
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.outputs import LAST, Report, Trained
from prune_realloc.training.teacher import is_untrained
from prune_realloc.training.train import train
from prune_realloc.verbs.analyze import analyze


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
        """As options of `analyze`: images of the part that is trained on."""
        options = {name: getattr(self, name) for name in ("data_dir", "class_map", "class_order")}
        return {name: value for name, value in options.items() if value is not None} | {
            "data": self.data,
            "split": self.split,
        }


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What is the same in all rounds."""

    config: TrainConfig
    images: GrowthData
    target: Target
    """Its rules bound the widths."""
    teacher: str | Path | None
    teacher_options: Mapping[str, Any] | None
    device: str
    report: Report | None

    @property
    def kind(self) -> str:
        """The kind of cost that stays."""
        return self.target.kind or DEFAULT_KIND

    def trained(self, source: Path, out: Path) -> Trained:
        """The run of one network; an interrupted one goes on."""
        return train(
            source,
            self.config,
            **vars(self.images),
            out=out,
            teacher=self.teacher,
            teacher_options=self.teacher_options,
            device=self.device,
            report=self.report,
        )

    def analysed(self, folder: Path) -> Analysis:
        """The analysis of a round's trained network, read where it is there already."""
        out = folder / "analysis"
        if (out / META_FILE).exists():
            return Analysis.load(out)
        ckpt = str(folder / "run" / LAST)
        found = analyze(ckpt=ckpt, **self.images.analysed(), seed=self.config.seed, device=self.device)
        make_folder(out)
        clear_half_written(out)
        found.save(out, report_files(found, out))
        return found

    def write_next(self, net: EfficientVit, analysis: Analysis, limit: int, out: Path) -> dict[str, float]:
        """Write the network that follows from a trained one, with the weights that survive.

        Returns:
            Width -> the share of its units that the trained one keeps.
        """
        kept = _kept(net, analysis)
        config = grown(net.config, kept, self.target, self.kind, limit)
        with random_state_kept():
            torch.default_generator.manual_seed(self.config.seed)
            fresh: Any = EfficientVit(config)
        inherit(net, fresh, analysis.scores)
        fresh.pretrained_cfg = net.pretrained_cfg
        make_folder(out)
        clear_half_written(out)
        write_files(out, network_files(describe(fresh, EFFICIENTVIT, config.args()), weights_file(fresh)))
        return kept


def open_efficientvit(source: str | Path) -> EfficientVit:
    """The EfficientViT (MSRA) of a file or folder, with new weights where it has none.

    Raises:
        InputError: it is another network, or cannot be opened.
    """
    with random_state_kept():
        net = new_model(source) if is_untrained(source) else load_model(ckpt=None if source == "demo" else source)
    if not isinstance(net, EfficientVit):
        raise InputError(f"variant {str(source)!r} is a {type(net).__name__}; only an EfficientViT (MSRA) grows")
    return net


def shown_top1(trained: Trained) -> float:
    """What a round is judged by.

    Raises:
        InputError: the images have no labels.
    """
    if trained.top1 is None:
        raise InputError(
            f"data {trained.data['name']!r} has no labels, and grow judges every network by them; give some"
        )
    return trained.top1


def require_shown(net: EfficientVit, trained: Trained, number: int) -> None:
    """Raises InputError where a network is no better than chance, by two standard errors: nothing follows from it."""
    images = trained.data["validation_images"]
    if is_near_chance(top1 := shown_top1(trained), count_classes(net), images):
        raise InputError(
            f"round {number}: the trained network is right on {top1:.1%} of {images} images, near chance, so "
            "it shows nothing; train longer (--set epochs=...), into another folder"
        )


def _kept(net: EfficientVit, analysis: Analysis) -> dict[str, float]:
    """Share kept of each width that is measured, where `emit` reads an analysis."""
    plan = read_evidence(analysis, None)[0].plan
    assert plan is not None
    return {name: float(f"{share:.4g}") for name, share in kept_shares(net, plan.sites).items()}
