"""Images of a source in a seeded order -> prepared batches."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Taken
from prune_realloc.data.labels import Naming
from prune_realloc.data.pictures import Spans, eight_bits
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing

MAX_UNREADABLE = 0.05
"""Share of the chosen images that may be unreadable before the run is refused."""


@dataclass(frozen=True)
class ImageSource:
    """A data set before preprocessing.

    It goes to other processes, which read images: `load` and `describe` are functions of a module, with `partial` where
    they need to know more, and no lambdas.
    """

    name: str
    count: int
    load: Callable[[int], tuple[Image.Image, int]]
    """Image and label (-1: none) at a position; raises OSError where the image cannot be read."""
    describe: Callable[[int], str]
    """Where the image at a position lies, for messages."""
    num_classes: int | None
    """How many classes the data set says that it has. None: it does not say. 0: there are no labels."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels, where the data set tells them."""
    part: str = ""
    """Which part was opened, by one name for all words that mean it; empty: there are none, every split is all."""
    streams: bool = False
    """True: only so many of its images as were asked for are here, in the order of the stream."""
    least_classes: int = 0
    """One more than the largest label, where the labels are at hand and nothing else tells the number of classes."""
    empty: tuple[str, ...] = ()
    """Classes of which there are no images in this part."""
    naming: Naming = field(default_factory=Naming)
    """What the labels were found by; other parts are opened by the same."""
    spans: Spans = field(default_factory=dict)
    """By which ranges its pictures of more than 8 bits are scaled."""
    taken: Taken = field(default_factory=dict)
    """How it was read: layout, classes, and what was left out."""


def digest(checksums: Sequence[int]) -> str:
    """One checksum of many images, from theirs, in their order."""
    return hashlib.sha256(np.asarray(checksums, dtype=np.uint32).tobytes()).hexdigest()


def describe_place(name: str, place: int) -> str:
    """Where an image lies that has no file of its own."""
    return f"{name}[{place}]"


@dataclass(frozen=True)
class Batch:
    positions: Tensor
    """Place of each image in the seeded order, shape (B,)."""
    images: Tensor
    """Shape (B, C, H, W)."""
    labels: Tensor
    """Shape (B,); -1 where there is none."""
    checksums: tuple[int, ...]
    """CRC-32 of each image's decoded pixels."""
    given: Any = None
    """What a loader of the caller's own yielded."""

    def on(self, device: torch.device) -> Batch:
        """With the images on a device."""
        return dataclasses.replace(self, images=self.images.to(device))


def iterate(
    source: ImageSource,
    prepare: Preprocessing,
    *,
    samples: int,
    batch_size: int,
    seed: int,
    workers: int = 0,
    unreadable: list[str] | None = None,
    remarks: list[str] | None = None,
    part: tuple[int, int] = (0, 1),
    first: int = 0,
) -> Iterator[Batch]:
    """Batches of `samples` images, chosen without replacement and ordered by `seed`, from the `first` of that order on.

    `part` (i, n) yields every n-th of them from the i-th: what one of n processes looks at.

    Images that cannot be read are left out and named in `unreadable`; what was done to others, such as scaling pixels
    of 16 bits, is added to `remarks` for each.

    Raises:
        InputError: more than `MAX_UNREADABLE` of the images cannot be read.
    """
    skipped = [] if unreadable is None else unreadable
    order = torch.randperm(source.count, generator=torch.Generator().manual_seed(seed))
    chosen = order[first : first + samples].tolist()
    mine = range(part[0], len(chosen), part[1])
    loader = torch.utils.data.DataLoader(
        _Prepared(source, prepare, chosen),
        batch_size=batch_size,
        sampler=mine,
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # else it draws from the caller's
    )
    for items in loader:
        good = [item for item in items if not isinstance(item, str)]
        skipped += [item for item in items if isinstance(item, str)]
        if len(skipped) > max(1, MAX_UNREADABLE * len(mine)):
            raise InputError(
                f"data {source.name!r}: {len(skipped)} of {len(mine)} images cannot be read, first {skipped[0]}; "
                "repair or remove them"
            )
        if good:
            positions, images, labels, checksums, remarked = zip(*good, strict=True)
            if remarks is not None:
                remarks += chain.from_iterable(remarked)
            yield Batch(torch.tensor(positions), torch.stack(images), torch.tensor(labels), checksums)
    if mine and len(skipped) == len(mine):
        raise InputError(f"data {source.name!r} has no readable image, first {skipped[0]}")


class _Prepared(torch.utils.data.Dataset):
    """The chosen images as tensors; an unreadable one as a line that says why."""

    def __init__(self, source: ImageSource, prepare: Preprocessing, chosen: list[int]) -> None:
        self.source, self.chosen = source, chosen
        self.mode = CHANNEL_MODE[prepare.input_size[0]]
        self.transform = create_transform(
            prepare.input_size,
            is_training=False,
            mean=prepare.mean,
            std=prepare.std,
            interpolation=prepare.interpolation,
            crop_pct=prepare.crop_pct,
            crop_mode=prepare.crop_mode,
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int, int, tuple[str, ...]] | str:
        try:
            image, label = self.source.load(self.chosen[position])
            image, remarks = eight_bits(image, self.mode, self.source.spans)
        except (
            OSError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:  # PIL raises SyntaxError on broken PNGs
            return f"{self.source.describe(self.chosen[position])} ({error})"
        return position, self.transform(image), int(label), zlib.crc32(image.tobytes()), remarks
