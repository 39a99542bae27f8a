"""Batches of the caller's own: anything that can be iterated, as often as wanted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import Progress
from prune_realloc.core.taken import Fact
from prune_realloc.data.batches import Batch, digest
from prune_realloc.data.nested import described
from prune_realloc.data.stream import check_labels
from prune_realloc.runtime.distributed import place

Inputs = Callable[[Any], Tensor]
"""A batch as the loader gave it -> its images, shape (B, C, H, W)."""
ORIGIN = "the batches given"


class OwnBatches:
    """Batches of a loader, a list or an iterator; whole ones, in the order in which they come.

    An iterator can be gone through once only, so what it gives is kept in memory.
    """

    smaller = "give smaller batches"

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        inputs: Inputs | None = None,
        samples: int | None = None,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> None:
        """`samples`: at most so many images; None takes all. `dtype`: what the network computes in."""
        if place()[1] > 1:
            raise InputError("batches of your own are read by one process; start without a launcher")
        if isinstance(batches, torch.Tensor | Mapping | str) or not isinstance(batches, Iterable):
            raise InputError(
                f"batches must be a loader or a list of batches, got a {type(batches).__name__}; give [batch]"
            )
        self.source, self.inputs, self.samples, self.dtype, self.progress = batches, inputs, samples, dtype, progress
        self.kept: list[Any] | None = [] if _ends(batches) else None
        self.classes: int | None = None
        """How many classes the labels name; None: they are not read."""
        self.remarks: list[str] = []
        """What whoever opened them has to say of them."""
        self.checksums: list[int] = []
        self.changed = False
        """Another pass brought other images, or another order."""
        self.left_over = False
        """There were more images than were taken."""
        self.first = next(iter(self))
        self.loading = {"batch_size": len(self.first.images)}

    def __iter__(self) -> Iterator[Batch]:
        before, checksums, shape = self.checksums, list[int](), None
        for number, given in enumerate(self._given()):
            images = self._images(given, number)
            if shape not in (None, images.shape[1:]):
                raise InputError(
                    f"batches: batch {number} has images of shape {tuple(images.shape[1:])}, those before it "
                    f"{tuple(shape or ())}; give all in one shape"
                )
            shape = images.shape[1:]
            if self.samples is not None and len(checksums) + len(images) > self.samples:
                self.left_over = True
                if not checksums:
                    raise InputError(
                        f"samples {self.samples} are fewer than the {len(images)} images of the first batch; batches "
                        "are taken whole, so give smaller ones"
                    )
                break
            positions = len(checksums) + torch.arange(len(images))
            own = tuple(_checksum(image) for image in images)
            yield Batch(positions, images, self._labels(given, number, len(images)), own, given)
            checksums += own
            if self.progress is not None:
                self.progress(len(checksums), max(len(checksums), len(before) or self._expected(len(images))))
        if not checksums:
            again = f", after {len(before)} images in an earlier pass" if before else ""
            raise InputError(f"batches: there are none{again}; give a loader or a list that holds images every time")
        self.changed = self.changed or (bool(before) and before != checksums)
        self.checksums = checksums

    def _expected(self, size: int) -> int:
        """About how many images there are, before they were all seen."""
        try:
            whole = len(self.source) * size if isinstance(self.source, Sized) else 0
        except TypeError:  # a loader of a stream has the method and no length
            whole = 0
        return min(whole, self.samples or whole)

    def _given(self) -> Iterator[Any]:
        """What the loader yields; of an iterator what is kept, and then what is left."""
        if self.kept is None:
            yield from self.source
            return
        yield from list(self.kept)
        for given in self.source:
            self.kept.append(given)
            yield given

    def _images(self, given: Any, number: int) -> Tensor:
        images = self._raw(given, number)
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            raise InputError(
                f"batches: the images of batch {number} are {described(images)}; they must be a tensor of floats of "
                "shape (B, C, H, W), prepared for the network: see inputs"
            )
        if not len(images):
            raise InputError(f"batches: batch {number} holds no image; leave it out")
        return images.detach().to(self.dtype)

    def _raw(self, given: Any, number: int) -> Any:
        if self.inputs is not None:
            return self.inputs(given)
        if isinstance(given, Mapping):
            keys = ", ".join(map(str, given))
            raise InputError(
                f"batches: batch {number} is a dict with {keys}; say where its images are: "
                f"inputs=lambda batch: batch[{next(iter(given), 'pixel_values')!r}]"
            )
        return given[0] if isinstance(given, tuple | list) and len(given) else given

    def _labels(self, given: Any, number: int, images: int) -> Tensor:
        """Shape (B,); -1 where they are not read."""
        if self.classes is None:
            return torch.full((images,), -1)
        labels = labels_of(given, images)
        if labels is None:
            raise InputError(f"batches: batch {number} has no labels, those before it have; give them, or labels=False")
        check_labels(labels, self.classes, "batches", "give the labels it was trained on, or loss=, or labels=False")
        return labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.first.images.shape[1:]
        return channels, height, width

    def taken(self) -> dict[str, Fact]:
        """What was taken, for the line that says it."""
        facts = {"images": len(self.checksums), "input size": list(self.shape), "preprocessing": "as they come"}
        return {name: Fact(value, ORIGIN) for name, value in facts.items()}

    def facts(self) -> dict[str, Any]:
        """What the images were; there is no name that would open them again."""
        return {
            "name": None,
            "labels": "unread" if self.classes is None else "given",
            "checksum": digest(self.checksums),
            "input_size": list(self.shape),
        }

    def notes(self) -> list[str]:
        notes = list(self.remarks)
        if self.kept is not None:
            notes.append(f"the batches came from an iterator, so its {len(self.checksums)} images were kept in memory")
        if self.changed:
            notes.append(
                "the batches brought other images, or another order, each time (shuffle, augmentation): results differ "
                "from run to run"
            )
        if self.samples is not None and len(self.checksums) < self.samples:
            why = "whole batches are taken" if self.left_over else "there are no more"
            notes.append(f"{len(self.checksums)} images were taken where {self.samples} were asked for: {why}")
        return notes


def _ends(batches: Iterable[Any]) -> bool:
    """Can it be gone through once only? It gives the same iterator each time; a loader may too, but starts it anew."""
    return not isinstance(batches, DataLoader) and iter(batches) is iter(batches)


def labels_of(given: Any, images: int) -> Tensor | None:
    """The second entry of a tuple or list, where it is one integer for each image."""
    if not isinstance(given, tuple | list) or len(given) < 2 or not isinstance(given[1], Tensor):
        return None
    labels = given[1]
    whole = labels.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return labels.detach().cpu().long() if whole and labels.shape == (images,) else None


def _checksum(image: Tensor) -> int:
    return zlib.crc32(image.cpu().float().contiguous().numpy().tobytes())
