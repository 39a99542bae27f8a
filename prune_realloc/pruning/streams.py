"""Residual streams between two refits, kept in a temporary file so that memory holds one batch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from prune_realloc.core.errors import InputError


class Streams:
    """The residual streams of the source (x) and of the cut network (y), batch by batch: (number, x, y).

    Between two layers they lie in a temporary file, so memory holds one batch however many images there are.
    """

    def __init__(self, like: Tensor) -> None:
        self.device, self.dtype = like.device, like.dtype
        with _folder_named():
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.places: list[tuple[int, torch.Size, torch.Size]] = []
        """Of each batch: where it begins in the file, and the shapes of x and y."""
        self.held: set[int] = set()
        """Batches that are led along and that nothing is fitted to."""

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full folder could not take is not needed any more
            self.file.close()

    def append(self, x: Tensor, y: Tensor, *, held: bool = False) -> None:
        """One batch more."""
        self.places.append((self.file.seek(0, 2), x.shape, y.shape))
        self.replace(len(self.places) - 1, x, y)
        if held:
            self.held.add(len(self.places) - 1)

    def replace(self, i: int, x: Tensor, y: Tensor) -> None:
        """Batch `i` anew; of other shapes where it has entered another stream, and then in another place."""
        if self.places[i][1:] != (x.shape, y.shape):
            self.places[i] = (self.file.seek(0, 2), x.shape, y.shape)
        with _folder_named():
            self.file.seek(self.places[i][0])
            for part in (x, y):
                self.file.write(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
            self.file.flush()

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        return ((i, *self.batch(i)) for i in range(len(self.places)))

    def fitted(self) -> list[int]:
        """The batches that layers are fitted to."""
        return [i for i in range(len(self.places)) if i not in self.held]

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """x and y of batch `i`."""
        offset, *shapes = self.places[i]
        self.file.seek(offset)
        data = [bytearray(self.file.read(self.dtype.itemsize * shape.numel())) for shape in shapes]
        x, y = (
            torch.frombuffer(d, dtype=self.dtype).to(self.device).reshape(s) for d, s in zip(data, shapes, strict=True)
        )
        return x, y


@contextmanager
def _folder_named() -> Iterator[None]:
    """Turns the errors of a full temporary folder into an InputError that names the variable."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"temporary folder {tempfile.tempdir!r} cannot hold the activations of all images ({error.strerror}); "
            "set TMPDIR to a larger one, or lower --samples"
        ) from error
