"""Which device to use, and a plain word when its memory ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prune_realloc.core.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def out_of_memory_named(batch_size: int, remedy: str = "lower --batch-size") -> Iterator[None]:
    """Turns the errors of a full memory into an InputError that names the flag."""
    try:
        yield
    except (
        MemoryError,
        RuntimeError,
    ) as error:  # torch raises RuntimeErrors that differ by device and version
        words = ("can't allocate memory", "not enough memory", "out of memory")
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in words):
            raise
        raise InputError(f"batch_size {batch_size} does not fit into memory; {remedy}") from error
