"""Which images a training run sees, in which order, and what is done to each: functions of seed, epoch and image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import MAX_UNREADABLE, ImageSource
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing, preprocessing
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.config import TrainConfig

HELD_OUT = 10_000
"""Images that are evaluated at most of those that are held out."""
_TRIES = 1000
"""Images in a row that cannot be read before it is given up."""


class TrainingImages:
    """Training and validation images of one run."""

    def __init__(self, data: str, data_dir: str | None, split: str, eval_split: str, samples: int | None) -> None:
        """As in `training.train`.

        Raises:
            InputError: a part is missing, has no labels, or streams; or the parts are the same.
        """
        if samples is not None and samples < 1:
            raise InputError(f"samples {samples} must be at least 1")
        self.source = open_images(data, split=split, data_dir=data_dir, samples=1)
        if self.source.streams:
            raise InputError(
                f"data {data!r} streams; training needs images that can be read in any order: a folder, "
                "torch/..., or hfds/..."
            )
        order = torch.randperm(self.source.count, generator=torch.Generator().manual_seed(0)).tolist()
        self.chosen = order if samples is None else order[:samples]
        self.held_out: list[int] = []
        """Places in the training part of what is evaluated; empty where another part is."""
        self.asked = {"name": data, "data_dir": data_dir, "split": split, "eval_split": eval_split, "samples": samples}
        if eval_split == "held-out":
            if samples is None or samples >= self.source.count:
                raise InputError(
                    f"eval_split 'held-out' needs samples below the {self.source.count} images of {data!r}"
                )
            self.held_out = order[samples : samples + HELD_OUT]
            self.validation = _only(self.source, self.held_out)
        else:
            self.validation = open_images(data, split=eval_split, data_dir=data_dir)
            if self.validation.part == self.source.part:
                why = "is what is trained on" if self.source.part else f"is not there: {data!r} has no parts"
                raise InputError(
                    f"eval_split {eval_split!r} {why}; choose another, or held-out with samples below the "
                    f"{self.source.count} images"
                )
        for where in (self.source, self.validation):
            if where.num_classes == 0:
                raise InputError(f"data {where.name!r} has no labels; training needs them")

    def fit(self, net: nn.Module) -> Preprocessing:
        """What the network wants to see.

        Raises:
            InputError: the data has other classes.
        """
        classes = count_classes(net)
        for where in (self.source, self.validation):
            if where.num_classes not in (None, classes):
                raise InputError(
                    f"data {where.name!r} has {where.num_classes} classes, the network {classes}; give "
                    "images of its classes"
                )
        both = self.source.class_names, self.validation.class_names
        if all(both) and both[0] != both[1]:
            one, other = next(pair for pair in zip(*both, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"data {self.source.name!r}: class {one!r} of the training images is {other!r} in "
                "the part that is evaluated; give both the same classes"
            )
        return preprocessing(net, input_shape(net), {})

    def facts(self) -> dict[str, Any]:
        return self.asked | {"images": len(self.chosen), "validation_images": self.validation.count}


def _only(source: ImageSource, places: list[int]) -> ImageSource:
    """These images of the source, in this order."""
    return replace(
        source, count=len(places), load=lambda i: source.load(places[i]), describe=lambda i: source.describe(places[i])
    )


class Augmented(torch.utils.data.Dataset):
    """Image `index` as it is seen in an epoch for the `turn`-th time: a function of the three and the seed."""

    def __init__(self, images: TrainingImages, prepare: Preprocessing, config: TrainConfig) -> None:
        self.source, self.chosen, self.seed = images.source, images.chosen, config.seed
        self.mode = CHANNEL_MODE[prepare.input_size[0]]
        try:
            self.transform = create_transform(
                prepare.input_size,
                is_training=True,
                mean=prepare.mean,
                std=prepare.std,
                interpolation=prepare.interpolation,
                scale=(config.crop_scale, 1.0),
                ratio=(3 / 4, 4 / 3),
                hflip=config.hflip,
                color_jitter=cast("Any", config.color_jitter or None),
                auto_augment=config.auto_augment,
                re_prob=config.reprob,
                re_mode="pixel",
            )
        except (AssertionError, ValueError, KeyError) as error:
            raise InputError(
                f"auto_augment {config.auto_augment!r} is no policy of timm's; give one such as rand-m9-mstd0.5-inc1"
            ) from error
        # timm's strongest posterize keeps 0 bits, which newer Pillows refuse; one bit is the strongest that is an image
        for part in self.transform.transforms:
            policies = [getattr(part, "ops", ()), *getattr(part, "policy", ())]  # RandAugment's; AutoAugment's
            for op in (op for ops in policies for op in ops if op.name.startswith("Posterize")):
                op.level_fn = partial(_one_bit_at_least, op.level_fn)

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, int, int]:
        """Image, label, and 1 where it stands in for one that cannot be read; nothing is raised in a worker."""
        epoch, index, turn = place
        image, label, replaced = self._loaded(index)
        with drawn_from(self.seed, epoch, index, turn):
            return self.transform(image.convert(self.mode)), label, replaced

    def _loaded(self, index: int) -> tuple[Image.Image, int, int]:
        """The image, or the next of the chosen ones that can be read in place of a broken one.

        Where so many are broken that none is found, a black one, counted as if all were.
        """
        tried = index
        for offset in range(min(_TRIES, len(self.chosen))):
            if offset == 1:
                start = self.chosen.index(index)
            if offset:
                tried = self.chosen[(start + offset) % len(self.chosen)]
            try:
                image, label = self.source.load(tried)
                image.load()
                return image, int(label), int(offset > 0)
            except (OSError, SyntaxError, Image.DecompressionBombError):
                continue
        return Image.new(self.mode, (32, 32)), 0, len(self.chosen) + 1


def check_unreadable(count: int, images: int, name: str) -> None:
    """Refuses an epoch in which too many images had to be replaced."""
    if count > max(1, MAX_UNREADABLE * images):
        raise InputError(
            f"data {name!r}: more than {MAX_UNREADABLE:.0%} of {images} images cannot be read; repair or remove them"
        )


def _one_bit_at_least(level_fn: Callable[..., tuple[int]], level: float, hparams: Any) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


@contextmanager
def drawn_from(*numbers: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's generators are seeded by numbers; put back afterwards.

    Those of an accelerator are seeded where the block computes on one: torch remembers the stack of every such call
    for a GPU that is not in use, which costs more than augmenting a small image does.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002, timm draws there
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if device is None or device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


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
