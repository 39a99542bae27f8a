"""Write the balanced subset of Fashion-MNIST that the package ships.

    sudo apt-get install dataset-fashion-mnist
    python examples/make_demo_data.py --out prune_realloc/assets/fashion_mnist

The first 400 training and 500 test images of every class, in their original order, as gzipped IDX files.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from prune_realloc.data.idx import read_idx

PER_CLASS = {"train": 400, "t10k": 500}


def encode_idx(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, per_class in PER_CLASS.items():
        labels = read_idx(args.data / f"{split}-labels-idx1-ubyte.gz")
        images = read_idx(args.data / f"{split}-images-idx3-ubyte.gz")
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(10)]))
        (args.out / f"{split}-images-idx3-ubyte.gz").write_bytes(encode_idx(images[chosen]))
        (args.out / f"{split}-labels-idx1-ubyte.gz").write_bytes(encode_idx(labels[chosen]))


if __name__ == "__main__":
    main()
