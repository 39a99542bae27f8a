"""IDX files (the MNIST family)."""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import ImageSource, describe_place

_IDX_PREFIX = {"train": "train", "validation": "t10k", "val": "t10k", "test": "t10k"}
"""Which part a word means -> how the names of its files begin."""


def holds_idx(folder: Path) -> bool:
    """Whether images lie in it as files of the MNIST family."""
    return any(folder.glob("*-idx3-ubyte*"))


def read_idx(path: Path) -> np.ndarray:
    """Array of an IDX file (MNIST family), gzipped or not.

    Format: two zero bytes, one type byte (0x08, unsigned bytes), one byte for the number of dimensions, then
    each dimension as a big-endian 32-bit integer, then the data (http://yann.lecun.com/exdb/mnist).

    Raises:
        InputError: the file is not IDX of unsigned bytes, is truncated, or has bytes to spare.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise InputError(f"{path} is not an IDX file of unsigned bytes")
    header_end = 4 + 4 * raw[3]
    if len(raw) < header_end:
        raise InputError(f"{path} ends inside its header; fetch it again")
    shape = struct.unpack(f">{raw[3]}I", raw[4:header_end])
    if len(raw) - header_end != int(np.prod(shape, dtype=np.int64)):
        raise InputError(f"{path} holds {len(raw) - header_end} bytes where its header says {shape}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=header_end).reshape(shape)


def open_idx(folder: Path, split: str) -> ImageSource:
    """One part of the IDX files in a folder.

    Labels in IDX files are numbers, and nothing says how many classes there are: a part may lack the last one.

    Raises:
        InputError: there is no such part, or its files are damaged or do not belong together.
    """
    if split not in _IDX_PREFIX:
        raise InputError(f"split {split!r} is unknown for IDX files; choose one of {sorted(_IDX_PREFIX)}")
    prefix = _IDX_PREFIX[split]
    image_files = sorted(folder.glob(f"{prefix}*-idx3-ubyte*"))
    if not image_files:
        raise InputError(f"data {str(folder)!r} has no {prefix}-images-idx3-ubyte file for split {split!r}")
    images = read_idx(image_files[0])
    label_files = sorted(folder.glob(f"{prefix}*-idx1-ubyte*"))
    labels = read_idx(label_files[0]) if label_files else None
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{label_files[0]} has {len(labels)} labels for {len(images)} images")
    return ImageSource(
        name=str(folder),
        count=len(images),
        load=partial(_load, images, labels),
        describe=partial(describe_place, image_files[0].name),
        num_classes=0 if labels is None else None,
        part=prefix,
        least_classes=0 if labels is None else int(labels.max(initial=0)) + 1,
    )


def _load(images: np.ndarray, labels: np.ndarray | None, place: int) -> tuple[Image.Image, int]:
    return Image.fromarray(images[place]), -1 if labels is None else int(labels[place])
