"""What a run writes for its reader: networks, log, curves and result. What it goes on from is `state_file`'s."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from prune_realloc.checkpoints.save import network_files, weights_file
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import json_file, make_folder, write_file, write_files
from prune_realloc.core.intervals import is_near_chance
from prune_realloc.core.names import RESULT_FILE, UNITS_FILE
from prune_realloc.core.typed import holding, read_typed
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.measures import measure_of

LOG_FILE = "log.csv"
BEST, LAST = "best", "last"
"""Folders of a run's networks, after its best and its last epoch."""

Row = dict[str, float]
"""One row of the log: a value for each of `columns`."""
Report = Callable[[Row], None]
"""Called with one row of the log after each epoch, and now and then inside it with epoch, share done and loss."""


def columns(measure: str) -> tuple[str, ...]:
    """Of the log, one row an epoch, of a run that is judged by `measure`."""
    return ("epoch", "loss", "lr", measure, "val_loss", "images_per_second", "seconds", "unreadable")


_WORSE = (
    "the network was {} before training than after any epoch: keep the one that you began with, or train longer, on "
    "more images, or with a lower lr"
)


_GUESSES = (
    "at its best the network was right on {:.1%}, and guessing one of {:,} classes is on {:.1%}: it has learnt nothing "
    "that shows; train longer, on more images, or with another lr"
)


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How near a network is to its teacher on the validation images, in a run without labels; larger is nearer."""

    measure: str
    """`agreement`: share of the images on which both have the same top-1; `cosine`: mean cosine of pooled features."""
    before: float
    """Before the first step."""
    last: float
    best: float
    loss_before: float
    """What `Trained.loss` was before the first step."""

    def note(self) -> str | None:
        """What to say where no epoch was as near as the network was before."""
        return None if self.best >= self.before else _WORSE.format("nearer to its teacher")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run has come to."""

    epochs: int
    """Passes over the training images."""
    top1: float | None
    """Share of the validation images that the last network gets right; None without labels."""
    best_top1: float | None
    """Share of the validation images that the best network gets right; None without labels."""
    best_epoch: int
    """The epoch after which the best network was written, counted from 1."""
    loss: float
    """Of the last network on the validation images: cross-entropy, or KL to the teacher, nats per image; without a
    classifier the squared error of its features as a share of the teacher's squares."""
    train_loss: float
    """Mean training loss of the last epoch, in the same."""
    params: int
    """Parameters of the network."""
    classes: int
    """Classes that it tells apart; 0 without a classifier."""
    unreadable: int
    """Training images of the last epoch that others stood in for."""
    seconds: float
    """Time for training and evaluation, over all resumptions."""
    config: TrainConfig
    """How it was trained."""
    model: Mapping[str, Any]
    """Architecture of the last network and a checksum of its weights."""
    data: Mapping[str, Any]
    """Name and parts of the data, and how many images were trained on and evaluated."""
    parent: str
    """What was trained: the folder or checkpoint."""
    architecture: str | None
    """That of a checkpoint which does not say it, where it was given."""
    model_args: Mapping[str, Any]
    """Arguments that the network was built with, over its own."""
    teacher: str | None
    """Checkpoint or name of the network that it was distilled from; None without one."""
    teacher_top1: float | None
    """Share of the validation images that the teacher gets right; None without a teacher or labels."""
    teacher_options: Mapping[str, Any] | None = None
    """How the teacher's checkpoint was opened, where that was said."""
    before_top1: float | None = None
    """Share of the validation images that the network got right before the first step; None without labels, and for
    new weights."""
    likeness: Likeness | None = None
    """None with labels."""
    taken: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the run went by, as an analysis has it; of the network that it began with."""
    teacher_taken: Mapping[str, Mapping[str, Any]] | None = None
    """What was taken of the teacher; None without one."""

    def note(self) -> str | None:
        """What to say where no epoch was as good as the network was before, or it is no better than guessing."""
        if self.likeness is not None:
            return self.likeness.note()
        if self.best_top1 is None:
            return None
        if self.before_top1 is not None and self.best_top1 < self.before_top1:
            return _WORSE.format("right on more images")
        if is_near_chance(self.best_top1, self.classes, self.data["validation_images"]):
            return _GUESSES.format(self.best_top1, self.classes, 1 / self.classes)
        return None


@dataclass(frozen=True, kw_only=True)
class _Seeded:
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Named:
    name: str
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What others read of a run's `RESULT_FILE`; older runs do not say everything."""

    params: int
    top1: float | None
    config: Annotated[Mapping[str, Any], holding(_Seeded)]
    data: Annotated[Mapping[str, Any], holding(_Named)]
    parent: str | None = None
    teacher: str | None = None
    teacher_options: Mapping[str, Any] | None = None
    architecture: str | None = None
    model_args: Mapping[str, Any] | None = None
    classes: int = 0

    @property
    def guesses(self) -> bool:
        """Whether the last network is no better than guessing; False where the run does not say its classes."""
        return self.top1 is not None and is_near_chance(self.top1, self.classes, self.data.get("validation_images", 0))

    @property
    def seed(self) -> int:
        return int(self.config["seed"])


def read_result(folder: Path) -> Finished:
    """What a run has come to.

    Raises:
        InputError: `RESULT_FILE` cannot be read or is damaged.
    """
    return read_typed(Finished, folder / RESULT_FILE, "train it again in another folder")


def read_log(path: Path) -> list[Row]:
    """What `rows_as_csv` wrote.

    Raises:
        InputError: it is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_row(cells) for cells in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error!r}); train it again") from error
    return rows


def _row(cells: Mapping[str, str]) -> Row:
    return {name: float(cells[name]) for name in columns(measure_of(cells))}


def rows_as_csv(rows: Sequence[Row]) -> str:
    """The log as a table with a heading, values with six digits."""
    text, names = io.StringIO(), columns(measure_of(rows[0]))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row[key] if key == "epoch" else f"{row[key]:.6g}" for key in names} for row in rows)
    return text.getvalue()


def write_network(folder: Path, net: nn.Module, description: bytes, units: bytes | None) -> None:
    """A folder that timm's `local-dir:` loads; `units`: its `units.json`, if it has one."""
    make_folder(folder)
    more = {} if units is None else {UNITS_FILE: units}
    write_files(folder, network_files(description, weights_file(net), more))


def write_tensorboard(folder: Path, row: Row) -> None:
    """The newest row of the log, where the package is installed."""
    if find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard", purge_step=int(row["epoch"])) as writer:
        for key in columns(measure_of(row))[1:]:
            writer.add_scalar(key, row[key], int(row["epoch"]))


def write_result(folder: Path, done: Trained) -> None:
    """`RESULT_FILE`, which `compare` reads."""
    content = {key: value for key, value in vars(done).items() if key not in ("config", "likeness")}
    if done.likeness is not None:
        content["likeness"] = vars(done.likeness)
    write_file(folder / RESULT_FILE, json_file(content | {"config": done.config.model_dump()}))
