"""By which number a network is judged: the caller's score, their loss, or the distance to the source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.stream import ImageStream
from prune_realloc.pruning.objectives import Loss, own_losses
from prune_realloc.results.evaluate import Predictions, measure
from prune_realloc.runtime.networks import evaluation_mode
from prune_realloc.verbs.own import Own, Score

_FITTED = "the images that layers were fitted on"


@dataclass(frozen=True, eq=False)
class Judge:
    """A number for each network, found once."""

    name: str
    """What the number is called."""
    unit: str
    """With a space in front, where it has one."""
    larger: bool
    """Is a larger number better?"""
    of: Callable[[nn.Module], float]
    on: str = ""
    """The images that it is found on, where they are ours to name."""
    known: WeakKeyDictionary[nn.Module, float] = field(default_factory=WeakKeyDictionary)
    """Of the networks that are still in use."""

    def __call__(self, network: nn.Module) -> float:
        if network not in self.known:
            self.known[network] = self.of(network)
        return self.known[network]

    def better(self, one: nn.Module, other: nn.Module) -> bool:
        """Is `one` strictly better?"""
        return self(one) > self(other) if self.larger else self(one) < self(other)

    def text(self, network: nn.Module) -> str:
        return f"{self(network):{'.2g' if self.unit else '.4g'}}"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What is known of how good a network is. What was not asked for is None."""

    score: Judge | None = None
    loss: Judge | None = None
    distance: Judge | None = None

    def decisive(self) -> Judge | None:
        """The one that decides between two candidates."""
        return self.score or self.loss or self.distance

    def own(self) -> dict[str, Judge]:
        """Those of the caller's."""
        both = {"score": self.score, "loss": self.loss}
        return {name: judge for name, judge in both.items() if judge is not None}

    def notes(self) -> list[str]:
        """What must be known of a measurement on the caller's batches."""
        if self.decisive() is None:
            return ["without loss= and score= the outcome was not measured, nor compared with the uniform plan"]
        if self.loss is None and self.distance is None:
            return []
        return ["loss and agreement are of the batches that layers were fitted on; a score may look at others"]


def judges_for(source: Predictions, images: Calibration | None, own: Own, predicts: bool) -> Judges:
    """All that can be said of networks that are made of `source`.

    Args:
        predicts: its output is one logit for each class.
    """
    score, loss, distance = None, None, None
    if own.score is not None:
        score = Judge("score", "", True, partial(_score, own.score))
    if own.loss is not None and images is not None:
        loss = Judge("mean loss", "", False, partial(mean_loss, own.loss, images), _FITTED)
    if predicts and images is not None:
        # against the source's own predictions: on labels, noise of either sign drowns what a good cut adds
        others, on = _to_judge_by(images)
        distance = Judge("KL to the source", " nats", False, partial(_distance, source, others), on)
    return Judges(score=score, loss=loss, distance=distance)


def _to_judge_by(images: Calibration) -> tuple[Calibration, str]:
    """Images, and which they are: on those that layers are fitted on, the better fit can be the worse network."""
    held_back = images.held_back() if isinstance(images, ImageStream) else None
    return (images, _FITTED) if held_back is None else (held_back, "images that no layer was fitted on")


def _score(score: Score, network: nn.Module) -> float:
    """The caller's measure.

    Raises:
        InputError: it is no finite number.
    """
    with evaluation_mode(network), torch.no_grad():
        found = score(network)
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"score returned a {type(found).__name__}; it must return one number, larger is better"
        ) from error
    if not math.isfinite(value):
        raise InputError(f"score returned {value}; it must return a finite number, larger is better")
    return value


@torch.no_grad()
def mean_loss(loss: Loss, images: Calibration, network: nn.Module) -> float:
    """Mean of the caller's loss over all images."""
    where, total, count = next(network.parameters()), 0.0, 0
    with evaluation_mode(network):
        for batch in images:
            on = batch.on(where.device)
            total += float(own_losses(loss, network(on.images), on).double().sum())
            count += len(on.images)
    return total / count


def _distance(source: Predictions, images: Calibration, network: nn.Module) -> float:
    return float(measure(network, images, labelled=False, source=source).kl or 0.0)
