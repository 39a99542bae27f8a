"""What a run writes: its state, log and result, and how they are packed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prune_realloc.core.analysis import META_FILE
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import RECIPE_FILE
from prune_realloc.training.config import TrainConfig

LOG_FILE = "log.csv"
RESULT_FILE = "result.json"
BEST, LAST = "best", "last"
"""Folders of a run's networks."""
COLUMNS = ("epoch", "loss", "lr", "top1", "val_loss", "images_per_second", "seconds", "unreadable")
OTHERS = (META_FILE, "config.json", RECIPE_FILE)
"""What other verbs write into their folders."""
FREE = ("workers", "compile")
"""Settings that may change from one start of a run to the next: they change its speed only."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run has come to."""

    epochs: int
    top1: float
    """Share of the validation images that the last network gets right."""
    best_top1: float
    best_epoch: int
    loss: float
    """Cross-entropy of the last network on the validation images, nats per image."""
    train_loss: float
    """Mean of the last epoch."""
    params: int
    unreadable: int
    """Images of the last epoch that others stood in for."""
    seconds: float
    """Of training and evaluation, over all resumptions."""
    config: TrainConfig
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    parent: str
    """What was trained: the folder or checkpoint."""
    model_args: Mapping[str, Any]
    """What it was built with, over its own."""
    teacher: str | None
    teacher_top1: float | None
    """Share of the validation images that the teacher gets right; None without a teacher."""


Report = Callable[[dict[str, float]], None]
"""Called with one row of the log after each epoch, and now and then inside it with epoch, share done and loss."""


def rows_as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row[key] if key == "epoch" else f"{row[key]:.6g}" for key in COLUMNS} for row in rows)
    return text.getvalue()


def pack_state(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """An optimizer's state as plain JSON; its tensors go to `tensors`, under names that say where they were."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"items": [[key, pack_state(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [pack_state(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"opt: its state holds a {type(value).__name__}, which is not saved; choose another")


def unpack_state(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "list" in value:
        return [unpack_state(item, tensors) for item in value["list"]]
    return {key: unpack_state(item, tensors) for key, item in value["items"]}


def first_difference(field: str, facts: dict[str, Any], value: Any) -> str:
    if field in ("network", "taught"):
        what = "network" if field == "network" else "teacher"
        return f"the {what} that is given is not the one that the run began with"
    have = facts["identity"].get(field)
    if isinstance(value, dict) and isinstance(have, dict):
        key = next(key for key in value | have if value.get(key) != have.get(key))
        return f"{field}.{key} is {have.get(key)!r} there, {value.get(key)!r} now"
    return f"{field} is {have!r} there, {value!r} now"
