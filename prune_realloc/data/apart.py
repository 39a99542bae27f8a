"""Calibration images in two parts: those that layers are fitted on, and those that what was fitted is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import Batch
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.stream import ImageStream

_EVERY = 4
"""Of so many batches in a row the last is held back, where the data has no images beyond those that are fitted."""


def set_apart(images: Calibration) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Batches to fit to, and batches that are held back.

    As many images again of the same data where there are enough of them, else every fourth batch of those at hand.
    """
    held_back = images.held_back() if isinstance(images, ImageStream) else None
    if held_back is not None:
        return images, held_back
    return _Part(images, held=False), _Part(images, held=True)


@dataclass(frozen=True)
class _Part:
    """Some of the batches of a pass."""

    images: Calibration
    held: bool

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            InputError: there are too few batches to hold one back.
        """
        number = 0
        for number, batch in enumerate(self.images, 1):
            if (number % _EVERY == 0) == self.held:
                yield batch
        if number < _EVERY:
            raise InputError(
                f"compensate.tune: of {number} batches none can be held back, which takes {_EVERY}; "
                f"{self.images.smaller}, or give more images"
            )
