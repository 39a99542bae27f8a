"""Data sets of images: folders, IDX files, the shipped subset, and what timm opens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.data.batches import ImageSource, describe_place
from prune_realloc.data.idx import open_idx

DEMO = Path(__file__).parents[1] / "assets" / "fashion_mnist"
_PARTS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"), ("test",))
"""Names of the folders of parts, as timm has them; those of one group stand for each other."""


class _Items(Protocol):
    """A list, or a data set of torchvision's: its items are an image and a label, and perhaps more."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Sequence[Any]: ...


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
        return replace(open_idx(DEMO, split), name="demo", num_classes=10)
    path = Path(spec)
    if path.is_dir():
        if any(path.glob("*-idx3-ubyte*")):
            return open_idx(path, split)
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


def _open_flat(folder: Path, files: list[Path]) -> ImageSource:
    load, describe = partial(_load_file, files), partial(_describe_file, files)
    return ImageSource(name=str(folder), count=len(files), load=load, describe=describe, num_classes=0)


def _load_file(files: Sequence[Path], place: int) -> tuple[Image.Image, int]:
    return Image.open(files[place]), -1


def _describe_file(files: Sequence[Path], place: int) -> str:
    return files[place].name


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
    """What timm's `create_dataset` makes of a name, or of a folder with class folders where the name is empty."""
    label = name or str(root)
    if root is not None and not root.is_dir():  # webdataset would run `pipe:...` and open addresses
        raise InputError(f"data_dir {str(root)!r} is no folder here; give the local folder where {label} lies")
    if ":" in split and name.startswith("wds/"):
        raise InputError(f"split {split!r} of {label} must be a name or a pattern of files in data_dir")
    try:
        dataset = create_dataset(name, root=str(root) if root else None, split=split, input_img_mode="")
    except ImportError as error:
        raise InputError(f"data {label!r} needs a package that is not installed ({error})") from error
    except Exception as error:  # each backend has exceptions of its own; all mean that the data is not there
        raise InputError(f"data {label!r}, split {split!r}, cannot be opened: {first_line(error)}") from error
    if isinstance(dataset, torch.utils.data.IterableDataset):
        first = list(itertools.islice(iter(dataset), samples))
        found = _of_items(label, first)
        return replace(found, part=_words(split)[0], streams=True)
    reader = getattr(dataset, "reader", None)
    if reader is None:
        return _of_torchvision(label, dataset, split)
    return replace(_of_reader(label, reader), part=_words(split)[0])


def _of_items(label: str, items: _Items) -> ImageSource:
    describe = partial(describe_place, label)
    return ImageSource(label, len(items), partial(_load_item, items), describe, num_classes=None)


def _of_torchvision(label: str, dataset: Any, split: str) -> ImageSource:
    part = _words(split)[0]
    if hasattr(dataset, "train"):  # it has two parts, and timm takes the second for any word that is not the first
        if split not in sum(_PARTS, ()):
            raise InputError(f"split {split!r} is unknown for {label}; choose train or test")
        part = "train" if dataset.train else "test"
    names = tuple(map(str, getattr(dataset, "classes", ())))
    return replace(_of_items(label, dataset), num_classes=len(names) or None, class_names=names, part=part)


def _of_reader(label: str, reader: Any) -> ImageSource:
    class_map: Mapping[Any, int] = getattr(reader, "class_to_idx", None) or {}
    return ImageSource(
        name=label,
        count=len(reader),
        load=partial(_load_read, reader),
        describe=partial(_describe_read, reader),
        num_classes=len(class_map) or None,
        class_names=tuple(sorted(map(str, class_map), key=lambda name: class_map[name])),
    )


def _load_item(items: _Items, place: int) -> tuple[Image.Image, int]:
    image, label = items[place][:2]
    return image, label


def _load_read(reader: Any, place: int) -> tuple[Image.Image, int]:
    # not the data set's own item: that would put a neighbour in place of a broken image
    image, target = reader[place][:2]
    return (image if isinstance(image, Image.Image) else Image.open(image)), (-1 if target is None else target)


def _describe_read(reader: Any, place: int) -> str:
    return str(reader.filename(place))
