"""Which run it is, and where it stands: everything that its file holds beside weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from pydantic import JsonValue

from prune_realloc.training.outputs import Row


class Identity(TypedDict):
    """What must be the same when a run is started again, as JSON has it; in the order in which it is compared."""

    source: str
    """What is trained: a folder, a checkpoint, `demo`, or a name of timm's."""
    config: dict[str, JsonValue]
    """All settings but those that change only the run's speed."""
    data: dict[str, JsonValue]
    """Name and parts of the data, and how many images they are."""
    model: str | None
    """Architecture of a checkpoint that does not say it, where it was given."""
    model_args: dict[str, JsonValue]
    """Arguments that the network was built with, over its own."""
    teacher: str | None
    """The network to distil from, as it was named."""
    teacher_options: dict[str, JsonValue] | None
    """How its checkpoint was opened, where that was said."""
    processes: int
    """Processes that train together."""
    network: dict[str, JsonValue]
    """Architecture of the network, and a checksum of the weights that it started with."""
    taught: dict[str, JsonValue] | None
    """The same of the teacher."""


@dataclass
class RunState:
    """The place in the data, and what was measured on the way there. Its fields are keys of the state's file."""

    epoch: int = 0
    """Epochs that are trained and evaluated."""
    step: int = 0
    """Steps of the next epoch that are done."""
    seconds: float = 0.0
    """Time for training and evaluation so far, over all resumptions."""
    best: tuple[float, int] = (-1.0, 0)
    """Highest score so far, and its epoch, counted from 1."""
    losses: list[float] = field(default_factory=list)
    """Loss of every step of this epoch so far, nats per image."""
    rows: list[Row] = field(default_factory=list)
    """The log: one row for each epoch that is evaluated."""
    unreadable: int = 0
    """Images of this epoch, in all processes, that others stood in for."""
    teacher_top1: float | None = None
    """Share of the validation images that the teacher gets right; None without a teacher, or before it is measured."""
    before: tuple[float, float] | None = None
    """Score and loss before the first step, of a network whose weights are not new."""
    evaluated: int = 0
    """Validation images that could be read."""

    def end_epoch(
        self, *, lr: float, measure: str, score: float, val_loss: float, batch_size: int, evaluation: float
    ) -> bool:
        """Add this epoch's row and go to the next; True where it is the best so far.

        Args:
            lr: learning rate of the last step.
            measure, score, val_loss: how good the network is now on the validation images, by which of `MEASURES`.
            batch_size: images of a step.
            evaluation: seconds that the evaluation took.
        """
        before = sum(row["seconds"] for row in self.rows)
        trained = self.seconds - before
        row = {
            "epoch": self.epoch + 1,
            "loss": float(np.mean(self.losses)),
            "lr": lr,
            measure: score,
            "val_loss": val_loss,
            "images_per_second": len(self.losses) * batch_size / max(trained, 1e-9),
            "seconds": trained + evaluation,
            "unreadable": self.unreadable,
        }
        self.seconds = before + row["seconds"]
        self.rows.append(row)
        better = score > self.best[0]
        if better:
            self.best = (score, self.epoch + 1)
        self.epoch, self.step, self.losses, self.unreadable = self.epoch + 1, 0, [], 0
        return better
