"""What is done to a training image: a function of seed, epoch, image and turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import MAX_UNREADABLE
from prune_realloc.data.pictures import eight_bits
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing
from prune_realloc.runtime.global_state import drawn_from
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.images import TrainingImages

_TRIES = 1000
"""Images in a row that cannot be read before it is given up."""


class Augmented(torch.utils.data.Dataset):
    """Image `index` as it is seen in an epoch for the `turn`-th time: a function of the three and the seed."""

    def __init__(self, images: TrainingImages, prepare: Preprocessing, config: TrainConfig) -> None:
        self.source, self.chosen, self.seed = images.source, images.chosen, config.seed
        self.mode = CHANNEL_MODE[prepare.input_size[0]]
        self.transform = _augmentation(prepare, config)

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, int, int]:
        """Image, label, and 1 where it stands in for one that cannot be read; nothing is raised in a worker."""
        epoch, index, turn = place
        image, label, replaced = self._loaded(index)
        with drawn_from(self.seed, epoch, index, turn):
            return self.transform(image), label, replaced

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
                return eight_bits(image, self.mode, self.source.spans)[0], int(label), int(offset > 0)
            except (OSError, SyntaxError, Image.DecompressionBombError):
                continue
        return Image.new(self.mode, (32, 32)), 0, len(self.chosen) + 1


def _augmentation(prepare: Preprocessing, config: TrainConfig) -> Callable[[Image.Image], Tensor]:
    """What is done to an image in training, by timm.

    Raises:
        InputError: timm knows no such policy.
    """
    try:
        transform: Any = create_transform(
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
    for part in transform.transforms:
        policies = [getattr(part, "ops", ()), *getattr(part, "policy", ())]  # RandAugment's; AutoAugment's
        for op in (op for ops in policies for op in ops if op.name.startswith("Posterize")):
            op.level_fn = partial(_one_bit_at_least, op.level_fn)
    return transform


def _one_bit_at_least(level_fn: Callable[..., tuple[int]], level: float, hparams: Any) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


def check_unreadable(count: int, images: int, name: str) -> None:
    """Refuses an epoch in which too many images had to be replaced."""
    if count > max(1, MAX_UNREADABLE * images):
        raise InputError(
            f"data {name!r}: more than {MAX_UNREADABLE:.0%} of {images} images cannot be read; repair or remove them"
        )
