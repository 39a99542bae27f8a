"""What images must offer to score a network on them, to refit its layers and to measure it, wherever they are from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from prune_realloc.core.taken import Taken
from prune_realloc.data.batches import Batch


class Calibration(Protocol):
    """Batches that can be gone through as often as needed."""

    @property
    def classes(self) -> int | None:
        """How many classes the labels name; None: they are not read."""

    @property
    def loading(self) -> Mapping[str, int]:
        """How the images are read; `batch_size` is among it."""

    @property
    def smaller(self) -> str:
        """How the user gets smaller batches, for messages."""

    @property
    def checksums(self) -> list[int]:
        """Of each image, after a pass."""

    def __iter__(self) -> Iterator[Batch]:
        """One pass over all images."""

    def facts(self) -> dict[str, Any]:
        """What the images were, after a pass; plain values."""

    def taken(self) -> Taken:
        """What was taken of them, and what says so, after a pass."""

    def notes(self) -> list[str]:
        """What the user must know of them, after a pass."""
