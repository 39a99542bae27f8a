"""Pixels of training images: small ones are read once and held, others are read whenever they are seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import MAX_UNREADABLE
from prune_realloc.data.pictures import eight_bits
from prune_realloc.training.images import TrainingImages

_TRIES = 1000
"""Images in a row that cannot be read before it is given up."""
_SMALL = 64
"""Pixels on the longer side of an image that is held. Larger ones take longer to train on than to read."""
_HELD = 2**31
"""Bytes that are held at most."""

Loaded = tuple[np.ndarray, int, int]
"""Pixels in bytes, shape (height, width) or (height, width, 3); label; 1 where they stand in for unreadable ones."""


class Files:
    """Images that are read each time."""

    def __init__(self, images: TrainingImages, mode: str) -> None:
        self.source, self.chosen, self.mode = images.source, images.chosen, mode

    def load(self, index: int) -> Loaded:
        """The image, or the next of the chosen ones that can be read in place of a broken one.

        Where so many are broken that none is found, a black one, counted as if all were; nothing is raised in a worker.
        """
        tried = index
        for offset in range(min(_TRIES, len(self.chosen))):
            if offset == 1:
                start = self.chosen.index(index)
            if offset:
                tried = self.chosen[(start + offset) % len(self.chosen)]
            try:
                image, label = self.source.load(tried)
                pixels = np.asarray(eight_bits(image, self.mode, self.source.spans)[0])
                return pixels, int(label), int(offset > 0)
            except (OSError, SyntaxError, Image.DecompressionBombError):
                continue
        return np.asarray(Image.new(self.mode, (32, 32))), 0, len(self.chosen) + 1


@dataclass(frozen=True)
class Held:
    """The same images, read once."""

    pixels: np.ndarray
    """Those of all images, one behind the other."""
    labels: list[int]
    replaced: list[int]
    rows: dict[int, int]
    """Place in the source -> row of the others."""

    def load(self, index: int) -> Loaded:
        """What `Files` gave."""
        row = self.rows[index]
        return self.pixels[row], self.labels[row], self.replaced[row]


def held_or_read(images: TrainingImages, mode: str) -> Files | Held:
    """Images are held where the first is small and all of its size would fit, unless one turns out to be of another."""
    files = Files(images, mode)
    first = files.load(images.chosen[0])[0]
    if max(first.shape[:2]) > _SMALL or len(images.chosen) * first.nbytes > _HELD:
        return files
    pixels = np.empty((len(images.chosen), *first.shape), np.uint8)
    labels, replaced, broken = [], [], 0
    for row, index in enumerate(images.chosen):
        one, label, stands_in = files.load(index)
        broken += stands_in
        if one.shape != first.shape or too_many_unreadable(broken, len(images.chosen)):
            return files
        pixels[row] = one
        labels.append(label)
        replaced.append(stands_in)
    return Held(pixels, labels, replaced, {index: row for row, index in enumerate(images.chosen)})


def too_many_unreadable(count: int, images: int) -> bool:
    """Whether `count` of so many images had to be replaced, which is too many."""
    return count > max(1, MAX_UNREADABLE * images)


def check_unreadable(count: int, images: int, name: str) -> None:
    """Refuses an epoch in which too many images had to be replaced."""
    if too_many_unreadable(count, images):
        raise InputError(
            f"data {name!r}: more than {MAX_UNREADABLE:.0%} of {images} images cannot be read; repair or remove them"
        )
