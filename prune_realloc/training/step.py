"""One step of training: images and labels -> a loss, and weights that have moved."""

# B images of one process and step, C classes

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.utils import dispatch_clip_grad
from torch import Tensor

from prune_realloc.runtime.distributed import summed
from prune_realloc.runtime.global_state import drawn_from
from prune_realloc.runtime.networks import class_logits
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.features import Features, relative_errors
from prune_realloc.training.setup import Setup


def one_step(setup: Setup, images: Tensor, labels: Tensor, update: int) -> float:
    """Move the weights once; the mean loss over all processes, in nats per image.

    Args:
        images: this process's images of the step, shape (B, channels, height, width).
        labels: shape (B,).
        update: how many steps were done before, in all epochs; every draw is a function of it and the seed.
    """
    accelerator, config = setup.accelerator, setup.config
    setup.schedule.step_update(update)
    with drawn_from(config.seed, 1 + update, accelerator.process_index, device=accelerator.device):
        images, targets = _inputs(setup, images, labels)
        total = _accumulate_gradients(setup, images, targets)
        if config.clip_grad:
            accelerator.unscale_gradients(setup.optimizer)
            dispatch_clip_grad(setup.net.parameters(), config.clip_grad, mode=config.clip_mode)
        setup.optimizer.step()
        setup.optimizer.zero_grad()
        if setup.ema is not None:
            setup.ema.update(setup.net, step=update)
    return float(summed(torch.tensor(total, dtype=torch.float64))) / accelerator.num_processes


def _inputs(setup: Setup, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images on the device, mixed where that is wanted, and smoothed targets, shape (B, C); None without labels."""
    config, device = setup.config, setup.accelerator.device
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if not setup.images.labelled:
        return images, None
    if setup.mixup is not None:
        mixed: tuple[Tensor, Tensor] = setup.mixup(images, labels)
        return mixed
    targets = F.one_hot(labels, setup.classes).float()
    return images, targets * (1 - config.smoothing) + config.smoothing / targets.shape[1]


def _accumulate_gradients(setup: Setup, images: Tensor, targets: Tensor | None) -> float:
    """Gradients of the mean loss, part by part; processes share them at the last part only."""
    accelerator, parts = setup.accelerator, setup.config.accumulate
    total, asked = 0.0, (None,) * parts if targets is None else targets.chunk(parts)
    for number, (x, y) in enumerate(zip(images.chunk(parts), asked, strict=True)):
        last = number == parts - 1
        with nullcontext() if last else accelerator.no_sync(setup.wrapped):
            with accelerator.autocast():
                loss = _loss(setup, setup.wrapped(x), y, x)
            accelerator.backward(loss / parts)
        total += float(loss.detach()) / parts
    return total


def _loss(setup: Setup, out: Tensor | tuple[Tensor, Tensor], targets: Tensor | None, images: Tensor) -> Tensor:
    """Cross-entropy with the labels, and with the teacher, nats per image; of features their relative squared error.

    timm's distillation tasks (from 1.0.23) do not fit: the one that takes a student with one classifier knows no hard
    targets, no task takes both kinds of student, and they call the student themselves, past accumulation in parts.
    """
    if isinstance(out, Features):
        assert setup.teacher is not None
        return relative_errors(out, setup.teacher.features(images)).mean()
    outputs = [class_logits(each) for each in (out if isinstance(out, tuple) else (out,))]
    if targets is None:  # both classifiers: in evaluation the student is the mean of the two
        return _taught(setup, outputs, images)
    loss = torch.sum(-targets * F.log_softmax(outputs[0].float(), dim=-1), dim=-1).mean()
    if setup.teacher is None:
        return loss
    weight = setup.config.distill_weight
    return (1 - weight) * loss + weight * _taught(setup, outputs[-1:], images)


def _taught(setup: Setup, outputs: Sequence[Tensor], images: Tensor) -> Tensor:
    """How far the student's logits, each (B, C), are from what the teacher says of the images: mean, nats per image."""
    assert setup.teacher is not None
    logits = class_logits(setup.teacher(images))
    return torch.stack([_distance(setup.config, each.float(), logits) for each in outputs]).mean()


def _distance(config: TrainConfig, output: Tensor, logits: Tensor) -> Tensor:
    """Of logits (B, C) from the teacher's, nats per image."""
    if config.distill == "hard":
        return F.cross_entropy(output, logits.argmax(dim=1))
    t = config.temperature
    log_p, log_q = F.log_softmax(output / t, dim=1), F.log_softmax(logits / t, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * t * t
