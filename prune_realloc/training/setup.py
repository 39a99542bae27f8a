"""What a run is made of and keeps from its start to its end: network, optimizer, schedule, data, teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import UNITS_FILE
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.results.evaluate import Predictions
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.augment import Augmented
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.features import WithFeatures
from prune_realloc.training.images import TrainingImages, epoch_order
from prune_realloc.training.teacher import Teacher, channels_taught


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """The parts of one run. Their tensors change with every step; which parts there are does not."""

    config: TrainConfig
    accelerator: Accelerator
    folder: Path
    """Where the run writes."""
    description: bytes
    """The `config.json` of the trained network."""
    images: TrainingImages
    prepare: Preprocessing
    """What is done to an image before the network sees it, in evaluation."""
    dataset: Augmented
    net: nn.Module
    """The network that is trained, on the accelerator's device."""
    wrapped: nn.Module
    """The network as it is called in training: with the other processes' gradients, or compiled."""
    optimizer: AcceleratedOptimizer
    schedule: Scheduler
    ema: ModelEmaV3 | None
    """Averaged weights; None: there are none."""
    mixup: Mixup | None
    """None: images are not mixed."""
    teacher: Teacher | None
    """None: nothing is distilled."""
    predictions: Predictions | None
    """What the teacher says of the validation images, which stay the same; None: nothing is distilled."""
    units: bytes | None
    """The `units.json` of the network that is trained, which it goes on to have; None: it has none."""
    steps: int
    """Steps of one epoch."""
    at_once: int
    """Images that a process computes together."""

    @property
    def kept(self) -> nn.Module:
        """The network that is evaluated and written: with averaged weights, where there are some."""
        return self.net if self.ema is None else self.ema.module

    @property
    def classes(self) -> int:
        """Classes that the network tells apart; 0: it is taught by features."""
        return count_classes(self.net)

    @property
    def measure(self) -> str:
        """Which of `MEASURES` the run is judged by."""
        if self.images.labelled:
            return "top1"
        return "agreement" if self.classes else "cosine"


def set_up(
    accelerator: Accelerator,
    config: TrainConfig,
    net: nn.Module,
    *,
    description: bytes,
    images: TrainingImages,
    teacher: str | Path | None,
    teacher_options: Mapping[str, Any],
    source: str | Path,
    folder: Path,
) -> Setup:
    """Everything that a run needs, with fresh optimizer and averaged weights.

    Args:
        source: where `net` is from.

    Raises:
        InputError: network, data, teacher and settings do not fit together.
    """
    prepare = images.fit(net)
    at_once = _images_at_once(config, net, teacher, accelerator.num_processes)
    if not images.labelled:
        _check_taught(config, net)
    if config.channels_last:
        net = net.to(memory_format=torch.channels_last)
    net = net.to(accelerator.device)
    steps = len(epoch_order(images.chosen, config, 0))
    own_optimizer = _optimizer(config, net)
    wrapped, optimizer = accelerator.prepare(net if count_classes(net) else WithFeatures(net), own_optimizer)
    units = _units_beside(source)
    teaching = None
    if teacher is not None:
        teaching = Teacher(teacher, teacher_options, net, prepare, accelerator.device)
        if not count_classes(net):
            teaching.channels = channels_taught(teaching.net, net, source, units)
    return Setup(
        config=config,
        accelerator=accelerator,
        folder=folder,
        description=description,
        images=images,
        prepare=prepare,
        net=net,
        wrapped=cast("nn.Module", torch.compile(wrapped)) if config.compile else wrapped,
        optimizer=optimizer,
        schedule=_schedule(config, own_optimizer, steps),
        ema=ModelEmaV3(net, decay=config.ema, use_warmup=True) if config.ema else None,
        mixup=_mixup(config, count_classes(net)),
        teacher=teaching,
        predictions=None if teaching is None else Predictions(teaching),
        units=units,
        dataset=Augmented(images, prepare, config),
        steps=steps,
        at_once=at_once,
    )


def _units_beside(source: str | Path) -> bytes | None:
    path = Path(str(source).removeprefix("local-dir:")) / UNITS_FILE  # as `open_student` takes it
    return path.read_bytes() if path.is_file() else None


def _check_taught(config: TrainConfig, net: nn.Module) -> None:
    """Raises InputError for settings that need labels, or classes, where there are none."""
    if config.mixup or config.cutmix:
        raise InputError("mixup: it and cutmix mix labels, and there are none; set both to 0")
    if config.distill == "hard" and not count_classes(net):
        raise InputError("distill 'hard' is a decision between classes, and the network has none; give distill=soft")


def _images_at_once(config: TrainConfig, net: nn.Module, teacher: str | Path | None, processes: int) -> int:
    """Images that a process computes together, after what `TrainConfig` cannot know of is checked."""
    if (config.distill != "none") != (teacher is not None):
        raise InputError(
            "distill: needs a teacher, and a teacher needs distill; give --teacher and distill=soft or hard"
        )
    if config.batch_size % (processes * config.accumulate):
        raise InputError(
            f"batch_size {config.batch_size} is not a multiple of {processes} processes x accumulate "
            f"{config.accumulate}"
        )
    if (config.mixup or config.cutmix) and config.batch_size % (2 * processes):
        raise InputError(
            f"batch_size {config.batch_size} is not even in each of {processes} processes; mixup and "
            "cutmix pair the images"
        )
    at_once = config.batch_size // (processes * config.accumulate)
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    if norms and at_once < 2:
        raise InputError(
            f"batch_size {config.batch_size} leaves one image for each of {processes} processes x "
            f"accumulate {config.accumulate}; batch norms need two"
        )
    return at_once


def _optimizer(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    lr = config.lr * (config.batch_size / config.lr_per if config.lr_per else 1.0)
    try:
        return create_optimizer_v2(net, opt=config.opt, lr=lr, weight_decay=config.weight_decay)
    except (ValueError, AssertionError, KeyError) as error:
        raise InputError(f"opt {config.opt!r} is none of timm's optimizers, or lacks a package ({error})") from error


def _schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> Scheduler:
    """Of the learning rate, set anew for every step. A constant one decays in steps, after the last epoch."""
    return create_scheduler_v2(
        optimizer,
        sched="cosine" if config.sched == "cosine" else "step",
        decay_epochs=config.epochs + 1,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )[0]


def _mixup(config: TrainConfig, classes: int) -> Mixup | None:
    if not (config.mixup or config.cutmix):
        return None
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=classes)
