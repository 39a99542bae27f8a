"""What the gradients are taken of: one number for each image, from labels, the prediction, or the caller's own loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import Batch
from prune_realloc.data.nested import described, moved, single
from prune_realloc.families import family_of
from prune_realloc.families.host import find_host
from prune_realloc.runtime.networks import class_logits, count_classes

Loss = Callable[[Any, Any], Tensor]
"""(output of the network, batch as the loader gave it) -> one loss for each image, shape (B,), differentiable."""
Kind = Literal["given", "drawn from the model", "the prediction", "random projections", "own loss"]
"""Where the labels come from that the loss is taken at, as an analysis names it."""


@dataclass(frozen=True)
class Losses:
    """Of one batch."""

    each: Tensor
    """Loss of each image, shape (B,)."""
    right: int = 0
    """How many images have their label on top."""
    entropy: float = 0.0
    """Sum over the images of the entropy of the prediction, nats."""
    signed: Tensor | None = None
    """What gradients are taken of in place of the loss, shape (B,): their second moment is that of the loss at labels
    as the network foretells them."""

    def backed(self) -> Tensor:
        """What gradients are taken of, shape (B,)."""
        return self.each if self.signed is None else self.signed


@dataclass(frozen=True)
class Objective:
    """What a network is run for, and what is made of its output."""

    kind: Kind
    run: Callable[[nn.Module, Tensor], Any]
    """The network and images (B, C, H, W) -> the output that is judged."""
    judge: Callable[[Any, Batch], Losses]
    """That output and its batch -> losses."""
    slopes: bool = False
    """Does the mean gradient say anything? By signs, and with labels that are drawn, it is zero in expectation."""

    @property
    def labelled(self) -> bool:
        return self.kind == "given"

    @property
    def classifier(self) -> bool:
        return self.kind in ("given", "drawn from the model", "the prediction")


class Draws:
    """Uniform numbers in [0, 1), one for each image of a run by its position; made as they are asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.made = torch.zeros(0, dtype=torch.float64)

    def __call__(self, positions: Tensor) -> Tensor:
        if (short := int(positions.max()) + 1 - len(self.made)) > 0:
            more = torch.rand(short, generator=self.generator, dtype=torch.float64)
            self.made = torch.cat([self.made, more])
        return self.made[positions]


def objective_for(
    model: nn.Module, draws: Callable[[Tensor], Tensor], *, labelled: bool, loss: Loss | None, slopes: bool
) -> Objective:
    """What `model` is scored by: the caller's loss, else its classes, else projections.

    Args:
        draws: of images at these positions: they decide the label that is drawn from the model's own prediction, so
            that it does not depend on the batch split. Their bits also seed signs and projections.
        labelled: the batches' labels are the network's classes.
        slopes: the mean of the gradients is to say something, so that they must be of the loss at labels; else they
            are of what the network itself predicts.
    """
    if loss is not None:
        return Objective("own loss", _output, partial(_own, loss), slopes=True)
    if labelled and slopes:
        return LABELS
    if is_classifier(model):
        if slopes:
            return Objective("drawn from the model", _output, partial(_classified, draws))
        return Objective("given" if labelled else "the prediction", _output, partial(_signed, draws, labelled))
    host = find_host(model)
    run = family_of(model).features if host.stands_alone else _output
    return Objective("random projections", run, partial(_projected, draws))


def is_classifier(model: nn.Module) -> bool:
    """Whether the output is one logit for each class: a supported network with classes."""
    return find_host(model).stands_alone and count_classes(model) > 0


def _output(model: nn.Module, images: Tensor) -> Any:
    return model(images)


def _classified(draws: Callable[[Tensor], Tensor] | None, out: Any, batch: Batch) -> Losses:
    """Cross-entropy at the batch's labels, or without them at labels drawn from the prediction."""
    log_p = F.log_softmax(single(class_logits(out)), dim=1)
    entropy = float(-(log_p.detach().exp() * log_p.detach()).sum())
    if draws is None:
        target = batch.labels.to(log_p.device)
    else:
        u = draws(batch.positions).to(log_p.device, torch.float64)[:, None]
        cumulated = log_p.detach().double().exp().cumsum(1)
        target = (cumulated < u * cumulated[:, -1:]).sum(1)
    right = int((log_p.detach().argmax(1) == target).sum()) if draws is None else 0
    return Losses(F.nll_loss(log_p, target, reduction="none"), right, entropy)


def _signed(draws: Callable[[Tensor], Tensor], labelled: bool, out: Any, batch: Batch) -> Losses:
    """Gradients whose second moment is the Fisher information of the prediction, from random signs.

    At the logits, the gradient of sum_c e_c sqrt(p_c) log p_c is e sqrt(p) - p (e . sqrt(p)); over the signs e its
    second moment is diag(p) - p p', as that of a label that is drawn. But a label hardly ever says what a sure
    prediction leaves open, and the labels of training images say it least: each draw of signs does.
    """
    log_p = F.log_softmax(single(class_logits(out)), dim=1)
    p = log_p.detach().exp()
    signs = torch.stack([_signs(draw, p.shape[1]) for draw in draws(batch.positions).tolist()]).to(log_p)
    uncertain = -(p * log_p.detach()).sum(1)
    signed, entropy = (signs * p.sqrt() * log_p).sum(1), float(uncertain.sum())
    if not labelled:
        return Losses(uncertain, entropy=entropy, signed=signed)
    target = batch.labels.to(log_p.device)
    right = int((log_p.detach().argmax(1) == target).sum())
    return Losses(F.nll_loss(log_p.detach(), target, reduction="none"), right, entropy, signed)


def _projected(draws: Callable[[Tensor], Tensor], out: Any, batch: Batch) -> Losses:
    """The output of each image, on a direction that belongs to it."""
    out = single(_flat(out, len(batch.images)))
    directions = torch.stack([random_direction(draw, out.shape[1]) for draw in draws(batch.positions).tolist()])
    return Losses((out * directions.to(out.device)).sum(1))


LABELS = Objective("given", _output, partial(_classified, None), slopes=True)
"""Cross-entropy at the batches' labels."""


def random_direction(draw: float, width: int) -> Tensor:
    """A standard normal vector that belongs to one image: its loss is the projection of the features on it."""
    return torch.randn(width, generator=torch.Generator().manual_seed(int(draw * 2**53)))


def _signs(draw: float, count: int) -> Tensor:
    """1 or -1, so many; they belong to one image."""
    return torch.randint(2, (count,), generator=torch.Generator().manual_seed(int(draw * 2**53))) * 2 - 1


def _flat(out: Any, images: int) -> Tensor:
    """All numbers that a network puts out for each image, (B, numbers)."""
    parts = list(out.values()) if isinstance(out, Mapping) else list(out) if isinstance(out, list | tuple) else [out]
    if not parts or not all(isinstance(part, Tensor) and part.ndim and len(part) == images for part in parts):
        raise InputError(
            f"loss is missing, and the output of the network ({described(out)}) is not one tensor for each image; "
            "give loss=fn(output, batch) with one value for each image"
        )
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _own(loss: Loss, out: Any, batch: Batch) -> Losses:
    """The caller's loss.

    Raises:
        InputError: it is not one finite number for each image, with a gradient.
    """
    each = own_losses(loss, out, batch)
    if not each.requires_grad:
        raise InputError(
            "loss has no gradient: it does not depend on the network's output, or the network runs the part that is "
            "pruned under torch.no_grad(), or something was detached on the way"
        )
    return Losses(each)


def own_losses(loss: Loss, out: Any, batch: Batch) -> Tensor:
    """One loss for each image, shape (B,), by the caller's function.

    Raises:
        InputError: it returns something else; the message says how to get one value for each image.
    """
    images = len(batch.images)
    each = loss(single(out), moved(batch.given, batch.images.device))
    if isinstance(each, Tensor) and images > 1 and each.shape[:2] == (images, images):
        raise InputError(
            f"loss returned {described(each)} for a batch of {images} images: output and target were broadcast against "
            "each other; give both one shape, such as output.squeeze(1)"
        )
    if not isinstance(each, Tensor) or not each.is_floating_point() or each.shape != (images,):
        raise InputError(
            f"loss returned {described(each)} for a batch of {images} images; it must be a tensor of shape "
            f"({images},), one value for each image: take reduction='none', and the mean over everything but the "
            "images, such as .flatten(1).mean(1)"
        )
    if not bool(torch.isfinite(each).all()):
        where = int(torch.isfinite(each).logical_not().nonzero()[0])
        raise InputError(
            f"loss is {each[where].item()} for image {where} of a batch; it must be finite, as for an image in which "
            "nothing counts: give 0 there"
        )
    return single(each)
