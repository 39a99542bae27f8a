"""What every verb that runs a network on images needs: device, input, labels, batches, a word when memory ends."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prune_realloc.data import Batch, ImageSource, Preprocessing, iterate
from prune_realloc.errors import InputError
from prune_realloc.families import FAMILIES
from prune_realloc.processes import gathered, place

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def require_at_least(name: str, value: float | None, least: float) -> None:
    """Raises InputError where `value` is given and smaller."""
    if value is not None and value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def count_classes(model: nn.Module) -> int:
    """Classes that the network tells apart; 0 without a classifier."""
    return int(getattr(model, "num_classes", 0) or 0)


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the network takes: from its family, else from timm's configuration and its first convolution.

    Raises:
        InputError: nothing tells it.
    """
    for family in FAMILIES.values():
        if family.owns(model):
            return tuple(family.example_input(model)[1:])
    config = getattr(model, "pretrained_cfg", None) or {}
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if "input_size" not in config or first is None:
        raise InputError(f"model {type(model).__name__} does not tell its input size; use a timm model")
    return (first.in_channels, *config["input_size"][1:])


def measured_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds by torch's counter; older ones count attention only where it is made of matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def use_labels(net: nn.Module, source: ImageSource, wanted: bool) -> bool:
    """Whether the data's labels are there, wanted, and the network's classes.

    Raises:
        InputError: the data has another number of classes.
    """
    classes = count_classes(net)
    if not wanted or not classes or source.num_classes == 0:
        return False
    if source.num_classes is not None and source.num_classes != classes:
        raise InputError(
            f"data {source.name!r} has {source.num_classes} classes, the model {classes}; "
            "give the data it was trained on, or --no-labels to draw labels from its own prediction"
        )
    return True


def check_labels(labels: Tensor, classes: int, name: str, remedy: str) -> None:
    """Raises InputError where one of the labels (B,) of the data `name` is none of the network's classes."""
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < classes:
        wrong = low if low < 0 else high
        raise InputError(f"data {name!r} has the label {wrong}, the model {classes} classes; {remedy}")


@contextmanager
def evaluation_mode(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block the models are in evaluation mode, on `device` if given; every module is put back."""
    modes = [(module, module.training) for net in models for module in net.modules()]
    homes = [(net, next(net.parameters()).device) for net in models]
    try:
        for net in models:
            net.eval().to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for net, home in homes:
            net.to(home)


@contextmanager
def out_of_memory_named(batch_size: int, remedy: str = "lower --batch-size") -> Iterator[None]:
    """Turns the errors of a full memory into an InputError that names the flag."""
    try:
        yield
    except (
        MemoryError,
        RuntimeError,
    ) as error:  # torch raises RuntimeErrors that differ by device and version
        words = ("can't allocate memory", "not enough memory", "out of memory")
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in words):
            raise
        raise InputError(f"batch_size {batch_size} does not fit into memory; {remedy}") from error


class ImageStream:
    """Batches of the chosen images, as often as wanted, and afterwards what they were.

    One of several processes sees its part of them; what they were, it knows of all.
    """

    def __init__(
        self, images: ImageSource, prepare: Preprocessing, *, classes: int | None, samples: int | None,
        batch_size: int, seed: int, workers: int = 0, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        """`classes`: how many the labels may name; None: they are not read. `samples`: None takes all."""
        self.images, self.prepare, self.classes, self.progress = images, prepare, classes, progress
        self.asked, self.wanted = samples, min(samples or images.count, images.count)
        if self.wanted < place()[1]:
            raise InputError(f"samples {self.wanted} are fewer than the {place()[1]} processes; raise --samples")
        self.loading: dict[str, int] = {"batch_size": batch_size, "seed": seed, "workers": workers}
        self.unreadable: list[str] = []
        self.checksums: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable, self.checksums = [], []
        for batch in iterate(
            self.images, self.prepare, samples=self.wanted, unreadable=self.unreadable, part=place(), **self.loading
        ):  # fmt: skip
            if self.classes is not None:
                check_labels(batch.labels, self.classes, self.images.name,
                             "give the data it was trained on and a --split with labels, or --no-labels")  # fmt: skip
            yield batch
            self.checksums += batch.checksums
            if self.progress is not None:
                self.progress(len(self.checksums) * place()[1], self.wanted)
        self.unreadable, self.checksums = gathered(self.unreadable), gathered(self.checksums)

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.images.name,
            "labels": "unread" if self.classes is None else "given",
            "checksum": hashlib.sha256(np.asarray(self.checksums, dtype=np.uint32).tobytes()).hexdigest(),
        } | {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.prepare).items()}

    def notes(self) -> list[str]:
        notes = []
        if self.unreadable:
            notes.append(f"{len(self.unreadable)} of {self.wanted} images could not be read and were left out: "
                         + "; ".join(self.unreadable[:5]) + ("; ..." if len(self.unreadable) > 5 else ""))  # fmt: skip
        if self.asked is not None and self.wanted < self.asked:
            notes.append(f"the data has {self.images.count} images, {self.asked} were asked for")
        return notes
