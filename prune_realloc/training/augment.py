"""What is done to training images, a batch at once: for each image a function of seed, epoch, image and turn."""

# B images, C channels, (h, w) the size that the network wants

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import str_to_pil_interp
from torch import Tensor

from prune_realloc.core.errors import InputError
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing
from prune_realloc.runtime.global_state import drawn_from
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.draws import Draws, draw_crops
from prune_realloc.training.erase import erase_
from prune_realloc.training.images import TrainingImages
from prune_realloc.training.jitter import jitter_
from prune_realloc.training.reading import held_or_read

Policy = Callable[[Image.Image], Image.Image]


class Augmented(torch.utils.data.Dataset):
    """Image `index` as it is seen in an epoch for the `turn`-th time: a function of the three and the seed.

    Every number is drawn for a batch at once, and all but crops and policies is computed so, by timm's rules.
    """

    def __init__(self, images: TrainingImages, prepare: Preprocessing, config: TrainConfig) -> None:
        channels, *self.size = prepare.input_size
        self.mode = CHANNEL_MODE[channels]
        self.config, self.images = config, held_or_read(images, self.mode)
        self.filter, self.policy = str_to_pil_interp(prepare.interpolation), _policy(prepare, config)
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (prepare.mean, prepare.std))

    def __getitems__(self, places: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, h, w), labels (B,), and 1 where an image stands in for one that cannot be read (B,).

        Args:
            places: epoch, index and turn of each image; the epoch is the same.
        """
        epochs, indices, turns = np.array(places).T
        config, draws = self.config, Draws(self.config.seed, int(epochs[0]), indices, turns)
        read, labels, replaced = zip(*map(self.images.load, indices.tolist()), strict=True)
        pixels = self._crops(read, draws)
        mirrored = torch.from_numpy(draws.uniform() < config.hflip)
        pixels[mirrored] = pixels[mirrored].flip(-1)
        if self.policy is not None:
            self._apply_(self.policy, pixels, places)
        elif config.color_jitter:
            jitter_(pixels, draws, config.color_jitter)
        pixels.div_(255).sub_(self.mean).div_(self.std)
        if config.reprob:
            erase_(pixels, draws, config.reprob)
        return pixels, torch.tensor(labels), torch.tensor(replaced)

    def _crops(self, images: Sequence[np.ndarray], draws: Draws) -> Tensor:
        """Random crops in the size that the network wants, whole numbers of 0 to 255 in floats, shape (B, C, h, w)."""
        heights, widths = np.array([image.shape[:2] for image in images]).T
        crops = draw_crops(draws, widths, heights, self.config.crop_scale)
        height, width = self.size
        column = Image.new(self.mode, (width, height * len(images)))  # read at once, which is faster than one by one
        for row, (image, (top, bottom, left, right)) in enumerate(zip(images, crops.sides, strict=True)):
            crop = Image.fromarray(image[top:bottom, left:right])
            column.paste(crop.resize((width, height), self.filter), (0, height * row))
        found = torch.from_numpy(np.array(column)).view(len(images), height, width, len(self.mean))
        return found.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)

    def _apply_(self, policy: Policy, pixels: Tensor, places: Sequence[tuple[int, int, int]]) -> None:
        """Change the pixels of one image after the other."""
        for image, place in zip(pixels, places, strict=True):
            content = image.byte().permute(1, 2, 0).numpy()
            with drawn_from(self.config.seed, *place):
                changed = policy(Image.fromarray(content if len(image) == 3 else content[:, :, 0]))
            image.copy_(torch.from_numpy(np.array(changed).reshape(content.shape)).permute(2, 0, 1))


def _policy(prepare: Preprocessing, config: TrainConfig) -> Policy | None:
    """What timm does to an image between cropping and normalising by `auto_augment`, colours included.

    Raises:
        InputError: timm knows no such policy.
    """
    if not config.auto_augment:
        return None
    try:
        policy: Any = create_transform(
            prepare.input_size,
            is_training=True,
            mean=prepare.mean,
            interpolation=prepare.interpolation,
            color_jitter=cast("Any", config.color_jitter or None),
            auto_augment=config.auto_augment,
            separate=True,
        )[1]
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"auto_augment {config.auto_augment!r} is no policy of timm's; give one such as rand-m9-mstd0.5-inc1"
        ) from error
    # timm's strongest posterize keeps 0 bits, which newer Pillows refuse; one bit is the strongest that is an image
    for part in policy.transforms:
        policies = [getattr(part, "ops", ()), *getattr(part, "policy", ())]  # RandAugment's; AutoAugment's
        for op in (op for ops in policies for op in ops if op.name.startswith("Posterize")):
            op.level_fn = partial(_one_bit_at_least, op.level_fn)
    return policy


def _one_bit_at_least(level_fn: Callable[..., tuple[int]], level: float, hparams: Any) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)
