"""What a network's predictions give cause to doubt: whether it is trained, and whether the images are of its domain."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import log
from typing import Any

from prune_realloc.core.intervals import is_near_chance
from prune_realloc.data.batches import Batch
from prune_realloc.pruning.objectives import Losses, Objective
from prune_realloc.runtime.distributed import place

_LOG = logging.getLogger(__name__)
_FIRST = 256
"""After so many images of a process a doubt is said, rather than when the work is done."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Means over images."""

    images: int
    """How many."""
    loss: float
    """Nats per image."""
    right: float | None
    """Share of the images whose top-1 is their label; None without labels."""
    entropy: float | None
    """Of the prediction, nats; None without a classifier."""


def doubts(seen: Predicted, classes: int) -> list[str]:
    """What speaks against a classifier of so many classes, or against the images; nothing for less than two."""
    if classes < 2:
        return []
    guess = log(classes)
    if seen.right is not None and is_near_chance(seen.right, classes, seen.images):
        return [
            f"the model is right on {seen.right:.1%} of the images, near chance: it looks untrained, "
            "or the labels are not its own"
        ]
    if seen.entropy is not None and seen.entropy > 0.98 * guess:
        return ["the model's predictions are close to uniform: it looks untrained"]
    if seen.right is not None and seen.loss >= guess:
        return [
            f"the model's loss on the images is {seen.loss:.2f} nats, and a guess among {classes} classes costs "
            f"{guess:.2f}: the images are of another domain or otherwise prepared, or the labels are not its own"
        ]
    return []


def said_early(objective: Objective, classes: int) -> Objective:
    """The same objective, which logs the doubts that its first images give, before the others are seen."""
    return replace(objective, judge=_FirstLook(objective, classes))


class _FirstLook:
    """Judges as the objective does, and adds up what it says of the first images."""

    def __init__(self, objective: Objective, classes: int) -> None:
        self.objective, self.classes = objective, classes
        self.images, self.loss, self.right, self.entropy = 0, 0.0, 0, 0.0

    def __call__(self, out: Any, batch: Batch) -> Losses:
        found = self.objective.judge(out, batch)
        if self.images < _FIRST:
            self.images += len(batch.images)
            self.loss += float(found.each.detach().double().sum())
            self.right, self.entropy = self.right + found.right, self.entropy + found.entropy
            if self.images >= _FIRST and place()[0] == 0:
                self._say()
        return found

    def _say(self) -> None:
        kind, count = self.objective, self.images
        seen = Predicted(
            images=count,
            loss=self.loss / count,
            right=self.right / count if kind.labelled else None,
            entropy=self.entropy / count if kind.classifier else None,
        )
        for doubt in doubts(seen, self.classes):
            _LOG.warning("note: of the first %d images: %s", count, doubt)
