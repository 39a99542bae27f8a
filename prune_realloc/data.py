"""Batches of real images: folders, IDX files, the shipped subset, and any data set that timm opens."""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.data.readers.img_extensions import get_img_extensions
from torch import Tensor, nn

from prune_realloc.errors import InputError, first_line

DEMO = Path(__file__).parent / "assets" / "fashion_mnist"
MAX_UNREADABLE = 0.05
"""Share of the chosen images that may be unreadable before the run is refused."""
_PARTS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"), ("test",))
"""Names of the folders of parts, as timm has them; those of one group stand for each other."""
_IDX_PREFIX = {"train": "train", "validation": "t10k", "val": "t10k", "test": "t10k"}
CHANNEL_MODE = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageSource:
    """A data set before preprocessing."""

    name: str
    count: int
    load: Callable[[int], tuple[Image.Image, int]]
    """Image and label (-1: none) at a position; raises OSError where the image cannot be read."""
    describe: Callable[[int], str]
    """Where the image at a position lies, for messages."""
    num_classes: int | None
    """None: not known without reading everything. 0: there are no labels."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels, where the data set tells them."""
    part: str = ""
    """Which part was opened, by one name for all words that mean it; empty: there are none, every split is all."""
    streams: bool = False
    """True: only so many of its images as were asked for are here, in the order of the stream."""


@dataclass(frozen=True)
class Preprocessing:
    """What the network wants to see; the fields are timm's."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"


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


def open_images(spec: str, *, split: str = "train", data_dir: str | None = None, samples: int = 1024) -> ImageSource:
    """The data set that `spec` names.

    Args:
        spec: `demo`; a folder of class folders (or of `train/`, `val/` with class folders), of images without
            labels, or of IDX files; or a name that timm's `create_dataset` takes (`torch/cifar10`, `hfds/...`,
            `wds/...`), never downloaded here.
        split: which part, where the data set has parts.
        data_dir: where a named data set lies.
        samples: how many images are wanted; only data sets that stream use it.

    Raises:
        InputError: nothing readable is there.
    """
    if spec == "demo":
        return _open_idx(DEMO, split, name="demo")
    path = Path(spec)
    if path.is_dir():
        if any(path.glob("*-idx3-ubyte*")):
            return _open_idx(path, split)
        flat = sorted(p for p in path.iterdir() if p.suffix.lower() in get_img_extensions())
        if flat:
            return _open_flat(path, flat)
        return _open_folder(path, split, samples)
    if path.exists():
        raise InputError(f"data {spec!r} is a file; give a folder or the name of a data set")
    prefix = spec.split("/")[0]
    if prefix in ("torch", "hfds", "hfids", "tfds", "wds") and "/" in spec:
        return _open_named(spec, Path(data_dir) if data_dir else None, split, samples)
    raise InputError(
        f"data {spec!r} does not exist; give a folder of images, 'demo', or a timm data set such as torch/cifar10"
    )


def preprocessing(model: nn.Module, input_size: tuple[int, int, int], overrides: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of `model`'s own data configuration, with `overrides` on top.

    Args:
        input_size: (C, H, W) of the network as it is now.
        overrides: any of `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`; None values do not count.
    """
    config = resolve_data_config({}, pretrained_cfg=getattr(model, "pretrained_cfg", {}))
    given = {key: value for key, value in overrides.items() if value is not None}
    values: dict[str, Any] = {key: given.get(key, config[key]) for key in ("mean", "std")}
    channels = input_size[0]
    if channels not in CHANNEL_MODE:
        raise InputError(f"the model takes {channels} channels; images have 1 or 3")
    for key, value in values.items():
        numbers = tuple(float(v) for v in value)
        if len(numbers) not in (1, channels) and key in given:
            raise InputError(f"{key} has {len(numbers)} values where the model takes {channels} channels")
        # a network made for colour and given gray images gets the mean over its channels
        values[key] = numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels
    for key in ("interpolation", "crop_pct", "crop_mode"):
        values[key] = given.get(key, config[key])
    return Preprocessing(input_size=input_size, **values)


def iterate(
    source: ImageSource, prepare: Preprocessing, *, samples: int, batch_size: int, seed: int,
    workers: int = 0, unreadable: list[str] | None = None, part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:  # fmt: skip
    """Batches of `samples` images, chosen without replacement and ordered by `seed`.

    `part` (i, n) yields every n-th of them from the i-th: what one of n processes looks at.

    Images that cannot be read are left out and named in `unreadable`.

    Raises:
        InputError: more than `MAX_UNREADABLE` of the images cannot be read.
    """
    skipped = [] if unreadable is None else unreadable
    chosen = torch.randperm(source.count, generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    mine = range(part[0], len(chosen), part[1])
    loader = torch.utils.data.DataLoader(
        _Prepared(source, prepare, chosen), batch_size=batch_size, sampler=mine, num_workers=workers, collate_fn=list
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
            positions, images, labels, checksums = zip(*good, strict=True)
            yield Batch(torch.tensor(positions), torch.stack(images), torch.tensor(labels), checksums)
    if mine and len(skipped) == len(mine):
        raise InputError(f"data {source.name!r} has no readable image, first {skipped[0]}")


class _Prepared(torch.utils.data.Dataset):
    """The chosen images as tensors; an unreadable one as a line that says why."""

    def __init__(self, source: ImageSource, prepare: Preprocessing, chosen: list[int]) -> None:
        self.source, self.chosen = source, chosen
        self.mode = CHANNEL_MODE[prepare.input_size[0]]
        self.transform = create_transform(
            prepare.input_size, is_training=False, mean=prepare.mean, std=prepare.std,
            interpolation=prepare.interpolation, crop_pct=prepare.crop_pct, crop_mode=prepare.crop_mode,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int, int] | str:
        try:
            image, label = self.source.load(self.chosen[position])
            image = image.convert(self.mode)
        except (
            OSError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:  # PIL raises SyntaxError on broken PNGs
            return f"{self.source.describe(self.chosen[position])} ({error})"
        return position, self.transform(image), int(label), zlib.crc32(image.tobytes())


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


def _open_idx(folder: Path, split: str, name: str | None = None) -> ImageSource:
    if split not in _IDX_PREFIX:
        raise InputError(f"split {split!r} is unknown for IDX files; choose one of {sorted(_IDX_PREFIX)}")
    prefix = _IDX_PREFIX[split]
    image_files = sorted(folder.glob(f"{prefix}*-idx3-ubyte*"))
    if not image_files:
        raise InputError(f"data {str(folder)!r} has no {prefix}-images-idx3-ubyte file for split {split!r}")
    images = read_idx(image_files[0])
    label_files = sorted(folder.glob(f"{prefix}*-idx1-ubyte*"))
    labels = read_idx(label_files[0]).astype(int) if label_files else np.full(len(images), -1)
    if len(labels) != len(images):
        raise InputError(f"{label_files[0]} has {len(labels)} labels for {len(images)} images")
    return ImageSource(
        name=name or str(folder),
        count=len(images),
        load=lambda i: (Image.fromarray(images[i]), int(labels[i])),
        describe=lambda i: f"{image_files[0].name}[{i}]",
        num_classes=int(labels.max()) + 1,
        part=prefix,
    )


def _open_flat(folder: Path, files: list[Path]) -> ImageSource:
    return ImageSource(
        name=str(folder),
        count=len(files),
        load=lambda i: (Image.open(files[i]), -1),
        describe=lambda i: files[i].name,
        num_classes=0,
    )


def _open_folder(folder: Path, split: str, samples: int) -> ImageSource:
    """Class folders, in a folder for each part or not; timm takes all of it where a part is missing, we do not."""
    parts = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name in {*sum(_PARTS, ())})
    there = [name for name in (split, *_words(split)) if (folder / name).is_dir()]
    if parts and not there:
        raise InputError(f"data {str(folder)!r} has no part {split!r}; choose one of {', '.join(parts)}")
    return replace(_open_named("", folder, there[0] if there else split, samples), part=there[0] if there else "")


def _words(split: str) -> tuple[str, ...]:
    """All words that mean the same part."""
    return next((group for group in _PARTS if split in group), (split,))


def _open_named(name: str, root: Path | None, split: str, samples: int) -> ImageSource:
    label = name or str(root)
    try:
        dataset = create_dataset(name, root=str(root) if root else None, split=split, input_img_mode="")
    except ImportError as error:
        raise InputError(f"data {label!r} needs a package that is not installed ({error})") from error
    except Exception as error:  # each backend has exceptions of its own; all mean that the data is not there
        raise InputError(f"data {label!r}, split {split!r}, cannot be opened: {first_line(error)}") from error
    part = _words(split)[0]
    if isinstance(dataset, torch.utils.data.IterableDataset):
        first = list(itertools.islice(iter(dataset), samples))
        return ImageSource(
            label, len(first), lambda i: first[i][:2], lambda i: f"{label}[{i}]", None, part=part, streams=True
        )
    reader = getattr(dataset, "reader", None)
    if reader is None:  # a torchvision data set
        if hasattr(dataset, "train"):  # it has two parts, and timm takes the second for any word that is not the first
            if split not in sum(_PARTS, ()):
                raise InputError(f"split {split!r} is unknown for {label}; choose train or test")
            part = "train" if dataset.train else "test"
        names = tuple(map(str, getattr(dataset, "classes", ())))
        return ImageSource(
            label, len(dataset), lambda i: dataset[i][:2], lambda i: f"{label}[{i}]", len(names) or None, names, part
        )

    def load(i: int) -> tuple[Image.Image, int]:
        image, target = reader[i][:2]  # not dataset[i]: that would put a neighbour in place of a broken image
        return (image if isinstance(image, Image.Image) else Image.open(image)), (-1 if target is None else target)

    class_map = getattr(reader, "class_to_idx", None) or {}
    return ImageSource(
        name=label,
        count=len(reader),
        load=load,
        describe=lambda i: str(reader.filename(i)),
        num_classes=len(class_map) or None,
        class_names=tuple(sorted(map(str, class_map), key=lambda name: class_map[name])),
        part=part,
    )
