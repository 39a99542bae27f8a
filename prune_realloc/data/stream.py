"""Batches of the chosen images, as often as wanted, their labels checked, and afterwards what they were."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import Progress
from prune_realloc.core.taken import Fact, Taken
from prune_realloc.data.batches import Batch, ImageSource, digest, iterate
from prune_realloc.data.folders import said
from prune_realloc.data.labels import shortened
from prune_realloc.data.preprocessing import Preprocessing, foreign_crop_note, guessed_note
from prune_realloc.runtime.distributed import gathered, place
from prune_realloc.runtime.networks import count_classes

_ENOUGH = 0.25
"""Held-back images for each one that is fitted."""


def use_labels(net: nn.Module, source: ImageSource, wanted: bool) -> bool:
    """Whether the data's labels are there, wanted, and the network's classes.

    Raises:
        InputError: the data has another number of classes.
    """
    classes = count_classes(net)
    if not wanted or not classes or source.num_classes == 0:
        return False
    check_classes(
        source,
        classes,
        "the model",
        "give the data it was trained on, or --no-labels (not for eval) to draw labels from its own prediction",
    )
    return True


def check_classes(source: ImageSource, classes: int, whose: str, remedy: str) -> None:
    """Raises InputError where the data has another number of classes than a network, or labels beyond them.

    Args:
        whose: what the message calls the network.
        remedy: what to do about it.
    """
    if source.num_classes not in (None, classes):
        more = [f"{shortened(source.empty)} without images"] if source.empty else []
        if "left out" in source.taken:
            more.append(f"left out: {', '.join(source.taken['left out'].value)}")
        text = f" ({'; '.join(more)})" if more else ""
        raise InputError(f"data {source.name!r} has {source.num_classes} classes{text}, {whose} {classes}; {remedy}")
    if source.least_classes > classes:
        largest = source.least_classes - 1
        raise InputError(f"data {source.name!r} has labels up to {largest}, {whose} {classes} classes; {remedy}")


def check_labels(labels: Tensor, classes: int, name: str, remedy: str) -> None:
    """Raises InputError where one of the labels (B,) of the data `name` is none of the network's classes."""
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < classes:
        wrong = low if low < 0 else high
        raise InputError(f"data {name!r} has the label {wrong}, the model {classes} classes; {remedy}")


class ImageStream:
    """Batches of the chosen images, as often as wanted, and afterwards what they were.

    One of several processes sees its part of them; what they were, it knows of all.
    """

    smaller = "lower --batch-size"

    def __init__(
        self,
        images: ImageSource,
        prepare: Preprocessing,
        *,
        classes: int | None,
        samples: int | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        progress: Progress | None = None,
        prepared: Taken | None = None,
        first: int = 0,
    ) -> None:
        """`classes`: how many the labels may name; None: they are not read. `samples`: None takes all.

        `prepared`: the facts of `prepare`. `first`: the place in the seeded order to begin with.
        """
        self.prepared = prepared or {}
        self.images, self.prepare, self.classes, self.progress = images, prepare, classes, progress
        self.first, self.asked = first, samples
        self.wanted = min(samples or images.count, images.count - first)
        if self.wanted < place()[1]:
            raise InputError(f"samples {self.wanted} are fewer than the {place()[1]} processes; raise --samples")
        self.loading: dict[str, int] = {"batch_size": batch_size, "seed": seed, "workers": workers}
        self.unreadable: list[str] = []
        self.remarks: list[str] = []
        self.checksums: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable, self.remarks, self.checksums = [], [], []
        for batch in iterate(
            self.images,
            self.prepare,
            samples=self.wanted,
            unreadable=self.unreadable,
            remarks=self.remarks,
            part=place(),
            first=self.first,
            **self.loading,
        ):
            if self.classes is not None:
                check_labels(
                    batch.labels,
                    self.classes,
                    self.images.name,
                    "give the data it was trained on and a --split with labels, or --no-labels (not for eval)",
                )
            yield batch
            self.checksums += batch.checksums
            if self.progress is not None:
                self.progress(len(self.checksums) * place()[1], self.wanted)
        self.unreadable, self.checksums = gathered(self.unreadable), gathered(self.checksums)
        if self.progress is not None and self.unreadable:
            self.progress(len(self.checksums), len(self.checksums))
        self.remarks = gathered(self.remarks)

    def held_back(self) -> ImageStream | None:
        """As many images again, of those that follow in the order; None where they are too few to judge by."""
        end = self.first + self.wanted
        if self.images.count - end < max(_ENOUGH * self.wanted, place()[1]):
            return None
        return ImageStream(
            self.images,
            self.prepare,
            classes=self.classes,
            samples=self.wanted,
            progress=self.progress,
            prepared=self.prepared,
            first=end,
            **self.loading,
        )

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.images.name,
            "labels": "unread" if self.classes is None else "given",
            "checksum": digest(self.checksums),
        } | {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.prepare).items()}

    def taken(self) -> Taken:
        """How the images were read; after a run, with those that could not be."""
        images = Fact(f"{len(self.checksums) or self.wanted} of {self.images.count}", f"--data {self.images.name}")
        left_out = [*self.images.taken["left out"].value] if "left out" in self.images.taken else []
        left_out += said({"unreadable": [line.split(" (")[0] for line in self.unreadable]})
        found = {name: fact for name, fact in self.images.taken.items() if name != "left out"} | {"images": images}
        if left_out:
            found["left out"] = Fact(left_out, "the files")
        return found | dict(self.prepared)

    def notes(self) -> list[str]:
        notes = guessed_note(self.prepared)
        if self.prepared:
            notes += foreign_crop_note(self.prepared, self.prepare.input_size)
        notes += [f"{count} of {self.wanted} images: {text}" for text, count in sorted(Counter(self.remarks).items())]
        if self.unreadable:
            notes.append(
                f"{len(self.unreadable)} of {self.wanted} images could not be read and were left out: "
                + "; ".join(self.unreadable[:5])
                + ("; ..." if len(self.unreadable) > 5 else "")
            )
        if self.asked is not None and self.wanted < self.asked:
            notes.append(f"the data has {self.images.count} images, {self.asked} were asked for")
        return notes
