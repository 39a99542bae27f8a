"""Which images a training run sees, and in which order: a function of seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Fact, Taken
from prune_realloc.data.batches import ImageSource
from prune_realloc.data.images import open_images
from prune_realloc.data.labels import Naming, UnknownClasses, shortened
from prune_realloc.data.preprocessing import Preprocessing, preprocessing
from prune_realloc.data.stream import check_classes
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.config import TrainConfig

Found = TypeVar("Found")

_ANY_ORDER = Naming(free=True)
HELD_OUT = 10_000
"""Images that are evaluated at most of those that are held out."""
_TENTH = 0.1
"""Share of the images that is held out of data without parts and labels, where nothing else is asked for."""


class TrainingImages:
    """Training and validation images of one run."""

    def __init__(
        self,
        data: str,
        data_dir: str | None,
        split: str,
        eval_split: str,
        samples: int | None,
        naming: Naming = _ANY_ORDER,
        taught: bool = False,
    ) -> None:
        """As in `training.train`; `naming`: what is known of the labels; `taught`: there need be none.

        Raises:
            InputError: a part is missing, has no labels, or streams; or the parts are the same.
        """
        if samples is not None and samples < 1:
            raise InputError(f"samples {samples} must be at least 1")
        self.asked = {"name": data, "data_dir": data_dir, "split": split, "eval_split": eval_split, "samples": samples}
        given = {"class_map": naming.class_map, "class_order": naming.class_order}
        self.asked |= {name: value for name, value in given.items() if value is not None}
        self.naming = naming
        self.source = self._open(data, data_dir, split)
        if self.source.streams:
            raise InputError(
                f"data {data!r} streams; training needs images that can be read in any order: a folder, "
                "torch/..., or hfds/..."
            )
        self.labelled = naming.wanted and self.source.num_classes != 0
        if not self.labelled and not self.source.part and eval_split == "validation":
            eval_split, samples = "held-out", self._all_but_a_tenth(samples)
        order = torch.randperm(self.source.count, generator=torch.Generator().manual_seed(0)).tolist()
        self.chosen = order[:samples]
        """Places in the source of what is trained on, in an order drawn by seed 0."""
        self.held_out: list[int] = []
        """Places in the source of what is evaluated; empty where another part is."""
        if eval_split == "held-out":
            if samples is None or samples >= self.source.count:
                raise InputError(
                    f"eval_split 'held-out' needs samples below the {self.source.count} images of {data!r}"
                )
            self.held_out = order[samples : samples + HELD_OUT]
            self.validation = _only(self.source, self.held_out)
        else:
            self.validation = self._other_part(data, data_dir, eval_split)
        if not self.labelled and not taught:
            raise InputError(f"data {data!r} has no labels; give some that has, or a network to learn from (--teacher)")
        if self.labelled and self.validation.num_classes == 0:
            raise InputError(f"data {self.validation.name!r} has no labels to evaluate by; choose another eval_split")

    def _all_but_a_tenth(self, samples: int | None) -> int:
        most = max(1, self.source.count - math.ceil(_TENTH * self.source.count))
        return most if samples is None else min(samples, most)

    def _open(self, data: str, data_dir: str | None, split: str) -> ImageSource:
        """One part; where its classes are not the network's, a new classifier may learn them."""
        try:
            return open_images(data, split=split, data_dir=data_dir, samples=1, naming=self.naming)
        except UnknownClasses:
            naming = replace(self.naming, names=(), classes=0, free=True)
            found = open_images(data, split=split, data_dir=data_dir, samples=1, naming=naming)
            if self.naming.class_map is not None or found.num_classes == self.naming.classes:
                raise
            self.naming = naming
            return found

    def _other_part(self, data: str, data_dir: str | None, eval_split: str) -> ImageSource:
        """The part that is evaluated, which must not be the one that is trained on."""
        found = self._open(data, data_dir, eval_split)
        if found.part == self.source.part:
            why = "is what is trained on" if self.source.part else f"is not there: {data!r} has no parts"
            raise InputError(
                f"eval_split {eval_split!r} {why}; choose another, or held-out with samples below the "
                f"{self.source.count} images"
            )
        return found

    def fit(self, net: nn.Module) -> Preprocessing:
        """What the network wants to see.

        Raises:
            InputError: the data has other classes.
        """
        if not self.labelled:
            return preprocessing(net, input_shape(net), {})
        if strange := [name for name in self.source.empty if name not in self.validation.empty]:
            raise InputError(
                f"data {self.source.name!r}: {shortened(strange)} has images in the part that is evaluated and none to "
                "train on; give both the same classes"
            )
        classes = count_classes(net)
        for where in (self.source, self.validation):
            check_classes(where, classes, "the network", "give images of its classes")
        both = self.source.class_names, self.validation.class_names
        if all(both) and both[0] != both[1]:
            one, other = next(pair for pair in zip(*both, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"data {self.source.name!r}: class {one!r} of the training images is {other!r} in "
                "the part that is evaluated; give both the same classes"
            )
        return preprocessing(net, input_shape(net), {})

    def taken(self) -> Taken:
        """How the images that are trained on were read."""
        images = Fact(
            f"{len(self.chosen)} of {self.source.count}, evaluated on {self.validation.count}",
            f"--data {self.source.name}",
        )
        return {**self.source.taken, "images": images}

    def facts(self) -> dict[str, Any]:
        """What was asked for, and how many images it came to, for the result."""
        return self.asked | {"images": len(self.chosen), "validation_images": self.validation.count}


def _only(source: ImageSource, places: list[int]) -> ImageSource:
    """These images of the source, in this order."""
    return replace(source, count=len(places), load=_At(source.load, places), describe=_At(source.describe, places))


@dataclass(frozen=True)
class _At(Generic[Found]):
    """A function of places in a source as one of positions in a list of places; it can be sent to another process."""

    function: Callable[[int], Found]
    places: list[int]

    def __call__(self, position: int) -> Found:
        return self.function(self.places[position])


def epoch_order(chosen: list[int], config: TrainConfig, epoch: int) -> list[list[tuple[int, int, int]]]:
    """Batches of (epoch, image, turn) of one epoch; images that fill no batch are left for other epochs.

    Repeated augmentation puts each image so many times in a row and makes the epoch no longer.

    Raises:
        InputError: the images do not fill one batch.
    """
    if len(chosen) < config.batch_size:
        raise InputError(f"batch_size {config.batch_size} is more than the {len(chosen)} training images; lower it")
    order = np.random.default_rng((config.seed, epoch)).permutation(chosen).tolist()
    places = [(epoch, index, turn) for index in order for turn in range(config.repeated_aug)][: len(order)]
    size = config.batch_size
    return [places[start : start + size] for start in range(0, len(places) - size + 1, size)]
