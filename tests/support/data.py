"""Data sets of a few images on disk."""

import gzip
import struct

import numpy as np
from PIL import Image

from prune_realloc.data.batches import iterate
from prune_realloc.data.images import DEMO
from prune_realloc.data.preprocessing import Preprocessing

GRAY = Preprocessing(input_size=(1, 28, 28), mean=(0.5,), std=(0.5,), crop_pct=1.0)
COLOUR = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def idx_bytes(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_images(folder, count, broken=()):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:03}.png"
        Image.fromarray(np.full((20, 24, 3), i, np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def read_all(source, prepare=COLOUR, **options):
    options = {"samples": 100, "batch_size": 4, "seed": 0} | options
    return list(iterate(source, prepare, **options))


def write_classes(folder, names=("cat", "dog", "owl"), count=2):
    """A folder for each class."""
    for name in names:
        write_images(folder / name, count)
    return folder


def write_idx(folder, part, labels):
    """One part of a data set in IDX files, with blank images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels, np.uint8)))
    return folder


def write_fashion_mnist(folder):
    """The shipped images where torchvision looks for the data set."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEMO.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder
