"""Residual streams between two refits, kept in a temporary file so that memory holds one batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
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
        self._places: list[list[tuple[int, torch.Size]]] = []
        """Of x and y of each batch: where it begins in the file, and its shape."""
        self.held: set[int] = set()
        """Batches that are led along and that nothing is fitted to."""
        self.written = 0
        """Bytes, so far."""

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full folder could not take is not needed any more
            self.file.close()

    def append(self, x: Tensor, y: Tensor, *, held: bool = False) -> None:
        """One batch more."""
        nothing = (0, torch.Size([0]))
        self._places.append([nothing, nothing])
        self.replace(len(self._places) - 1, x, y)
        if held:
            self.held.add(len(self._places) - 1)

    def replace(self, i: int, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """Batch `i` anew, or one side of it; of other shapes where it has entered another stream, and then in another
        place."""
        for side, part in enumerate((x, y)):
            if part is not None:
                self._write(i, side, part)

    def _write(self, i: int, side: int, part: Tensor) -> None:
        offset, shape = self._places[i][side]
        with _folder_named():
            offset = self.file.seek(offset) if shape == part.shape else self.file.seek(0, 2)
            self.file.write(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
            self.file.flush()
        self._places[i][side] = offset, part.shape
        self.written += part.numel() * part.element_size()

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        return ((i, *self.batch(i)) for i in range(len(self._places)))

    def fitted(self) -> list[int]:
        """The batches that layers are fitted to."""
        return [i for i in range(len(self._places)) if i not in self.held]

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """x and y of batch `i`."""
        return self._read(i, 0), self._read(i, 1)

    def lead_on(self, run: Callable[[Tensor], Tensor]) -> None:
        """y of each batch past a part of the cut network, where x is already."""
        for i in range(len(self._places)):
            self.replace(i, y=run(self._read(i, 1)))

    def _read(self, i: int, side: int) -> Tensor:
        offset, shape = self._places[i][side]
        self.file.seek(offset)
        data = bytearray(self.file.read(self.dtype.itemsize * shape.numel()))
        return torch.frombuffer(data, dtype=self.dtype).to(self.device).reshape(shape)


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
