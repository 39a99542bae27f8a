"""Crops of training images: small ones are held in memory, others are read whenever they are seen."""

# B images, C channels, (h, w) the size that the network wants

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import str_to_pil_interp
from torch import Tensor

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import MAX_UNREADABLE
from prune_realloc.data.pictures import eight_bits
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing
from prune_realloc.training.draws import Draws, Ints, Rectangles, draw_crops
from prune_realloc.training.images import TrainingImages
from prune_realloc.training.resample import crop_and_resize

_TRIES = 1000
"""Images in a row that cannot be read before it is given up."""
_SMALL = 64
"""Pixels on the longer side of an image that is held; larger ones Pillow resizes faster than products of matrices."""
_HELD = 2**31
"""Bytes that are held at most."""


@dataclass(frozen=True)
class Crops:
    """What is seen of the images of a batch."""

    pixels: Tensor
    """Whole numbers of 0 to 255 in floats, shape (B, C, h, w)."""
    labels: Tensor
    """Shape (B,)."""
    replaced: Tensor
    """Shape (B,): 1 where another image stands in for one that cannot be read."""


class Files:
    """Images that are read one by one, each time."""

    def __init__(self, images: TrainingImages, prepare: Preprocessing) -> None:
        self.source, self.chosen = images.source, images.chosen
        self.mode, self.size = CHANNEL_MODE[prepare.input_size[0]], prepare.input_size[1:]
        self.filter = str_to_pil_interp(prepare.interpolation)

    def crops(self, indices: Ints, draws: Draws, least: float) -> Crops:
        """Random crops of at least a share of these images; nothing is raised in a worker."""
        read, labels, replaced = zip(*map(self.load, indices.tolist()), strict=True)
        widths, heights = np.array([image.size for image in read]).T
        boxes = draw_crops(draws, widths, heights, least)
        cut = [self._cut(image, boxes, i) for i, image in enumerate(read)]
        return Crops(torch.stack(cut), torch.tensor(labels), torch.tensor(replaced))

    def _cut(self, image: Image.Image, boxes: Rectangles, i: int) -> Tensor:
        left, top = int(boxes.left[i]), int(boxes.top[i])
        crop = image.crop((left, top, left + int(boxes.width[i]), top + int(boxes.height[i])))
        return torch.from_numpy(planes(crop.resize(self.size[::-1], self.filter))).float().transpose(0, 1)

    def load(self, index: int) -> tuple[Image.Image, int, int]:
        """The image, its label, and 0; or 1 and the next of the chosen ones that can be read in place of a broken one.

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


@dataclass(frozen=True)
class Held:
    """Images of one size, read once."""

    pixels: Tensor
    """Bytes, shape (images, height, C, width): rows are resized as one matrix, and so are columns."""
    labels: Tensor
    replaced: Tensor
    rows: Tensor
    """Place in the source -> row of the others; shape (images of the source,)."""
    size: tuple[int, int]
    interpolation: str

    def crops(self, indices: Ints, draws: Draws, least: float) -> Crops:
        """As of `Files`, to the bit."""
        rows = self.rows[torch.from_numpy(indices)]
        _, height, _, width = self.pixels.shape
        sides = np.full_like(indices, width), np.full_like(indices, height)
        boxes = draw_crops(draws, *sides, least)
        pixels = crop_and_resize(self.pixels[rows], boxes, self.size, self.interpolation)
        return Crops(pixels, self.labels[rows], self.replaced[rows])


def planes(image: Image.Image) -> np.ndarray:
    """Its bytes, shape (height, C, width)."""
    pixels = np.array(image)
    return (pixels[:, :, None] if pixels.ndim == 2 else pixels).transpose(0, 2, 1)


def held_or_read(images: TrainingImages, prepare: Preprocessing) -> Files | Held:
    """Images are held where the first is small and all of its size would fit, unless one turns out to be of another."""
    files = Files(images, prepare)
    width, height = files.load(images.chosen[0])[0].size
    channels = len(prepare.mean)
    if max(width, height) > _SMALL or len(images.chosen) * height * channels * width > _HELD:
        return files
    pixels = torch.empty((len(images.chosen), height, channels, width), dtype=torch.uint8)
    found = _read_all(files, images.chosen, pixels)
    if found is None:
        return files
    rows = torch.full((images.source.count,), -1)
    rows[torch.tensor(images.chosen)] = torch.arange(len(images.chosen))
    return Held(pixels, *found, rows, prepare.input_size[1:], prepare.interpolation)


def _read_all(files: Files, chosen: Sequence[int], pixels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Fill `pixels` and give labels and what is replaced; None where a size differs, or too many are replaced."""
    labels, replaced, broken = [], [], 0
    for row, index in enumerate(chosen):
        image, label, stands_in = files.load(index)
        broken += stands_in
        if image.size[::-1] != pixels.shape[1::2] or too_many_unreadable(broken, len(chosen)):
            return None
        pixels[row] = torch.from_numpy(planes(image))
        labels.append(label)
        replaced.append(stands_in)
    return torch.tensor(labels), torch.tensor(replaced)


def too_many_unreadable(count: int, images: int) -> bool:
    """Whether `count` of so many images had to be replaced, which is too many."""
    return count > max(1, MAX_UNREADABLE * images)


def check_unreadable(count: int, images: int, name: str) -> None:
    """Refuses an epoch in which too many images had to be replaced."""
    if too_many_unreadable(count, images):
        raise InputError(
            f"data {name!r}: more than {MAX_UNREADABLE:.0%} of {images} images cannot be read; repair or remove them"
        )
