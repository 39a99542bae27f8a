"""Images to measure an outcome on: those of another part that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import Progress
from prune_realloc.data.batches import Batch
from prune_realloc.data.images import open_images
from prune_realloc.data.stream import ImageStream, use_labels
from prune_realloc.runtime.networks import count_classes


class Unseen:
    """The first images of a stream that nothing was fitted on, told by their checksums."""

    def __init__(self, stream: ImageStream, fitted: ImageStream, count: int, progress: Progress | None = None) -> None:
        self.stream, self.fitted, self.count, self.left_out = stream, fitted, count, 0
        self.progress = progress

    def __iter__(self) -> Iterator[Batch]:
        fitted, left = set(self.fitted.checksums), self.count
        self.left_out = 0
        for batch in self.stream:
            fresh = [i for i, checksum in enumerate(batch.checksums) if checksum not in fitted]
            self.left_out += len(batch.checksums) - len(fresh)
            fresh = fresh[:left]
            left -= len(fresh)
            if fresh:
                yield Batch(
                    batch.positions[fresh],
                    batch.images[fresh],
                    batch.labels[fresh],
                    tuple(batch.checksums[i] for i in fresh),
                )
            self._tell(self.count - left, min(self.count, self.stream.wanted))
            if not left:
                return
        self._tell(self.count - left, self.count - left)  # there are fewer than were asked for

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def open_unseen(net: nn.Module, fitted: ImageStream, data: str, data_dir: str | None, split: str, count: int) -> Unseen:
    """The images to measure on: `count` of a part of the data set that layers were fitted on, without those.

    Raises:
        InputError: the data set has no such part; another one is named with --eval-split.
    """
    try:
        source = open_images(
            data, split=split, data_dir=data_dir, samples=count + fitted.wanted, naming=fitted.images.naming
        )
    except InputError as error:
        raise InputError(f"eval_split {split!r}: {error}; or name another with --eval-split") from error
    labelled = fitted.classes is not None and use_labels(net, source, True)
    stream = ImageStream(
        source,
        fitted.prepare,
        classes=count_classes(net) if labelled else None,
        samples=min(count + fitted.wanted, source.count),
        progress=None,  # `Unseen` tells of those that are taken of them
        prepared=fitted.prepared,
        **fitted.loading,
    )
    return Unseen(stream, fitted, count, fitted.progress)
