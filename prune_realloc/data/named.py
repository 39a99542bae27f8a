"""Data sets that timm's `create_dataset` knows by a name: torchvision's, Hugging Face's, webdataset's."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from timm.data import create_dataset

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.data.batches import ImageSource, describe_place
from prune_realloc.data.folders import words_of
from prune_realloc.data.levels import PART_WORDS
from prune_realloc.data.pictures import open_picture


class _Items(Protocol):
    """A list, or a data set of torchvision's: its items are an image and a label, and perhaps more."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Sequence[Any]: ...


def open_named(label: str, root: Path | None, split: str, samples: int) -> ImageSource:
    """What timm's `create_dataset` makes of a name.

    Raises:
        InputError: it cannot be opened.
    """
    if root is not None and not root.is_dir():  # webdataset would run `pipe:...` and open addresses
        raise InputError(f"data_dir {str(root)!r} is no folder here; give the local folder where {label} lies")
    if root is None and label.startswith("wds/"):
        raise InputError(f"data_dir is missing; give the local folder where the shards of {label} lie")
    if ":" in split and label.startswith("wds/"):
        raise InputError(f"split {split!r} of {label} must be a name or a pattern of files in data_dir")
    try:
        with _offline() if label.startswith("hf") else nullcontext():
            dataset = create_dataset(label, root=str(root) if root else None, split=split, input_img_mode="")
    except ImportError as error:
        raise InputError(f"data {label!r} needs a package that is not installed ({error})") from error
    except Exception as error:  # each backend has exceptions of its own; all mean that the data is not there
        raise InputError(f"data {label!r}, split {split!r}, cannot be opened: {first_line(error)}") from error
    if isinstance(dataset, torch.utils.data.IterableDataset):
        first = list(itertools.islice(iter(dataset), samples))
        found = _of_items(label, first)
        return replace(found, part=words_of(split)[0], streams=True)
    reader = getattr(dataset, "reader", None)
    if reader is None:
        return _of_torchvision(label, dataset, split)
    return replace(_of_reader(label, reader), part=words_of(split)[0])


@contextmanager
def _offline() -> Iterator[None]:
    """Hugging Face's libraries read what is here, and fetch nothing."""
    before = {}
    for name in ("huggingface_hub.constants", "datasets.config"):
        module = importlib.import_module(name)
        before[module], module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE, True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in before.items():
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


def _of_items(label: str, items: _Items) -> ImageSource:
    describe = partial(describe_place, label)
    return ImageSource(label, len(items), partial(_load_item, items), describe, num_classes=None)


def _of_torchvision(label: str, dataset: Any, split: str) -> ImageSource:
    part = words_of(split)[0]
    if hasattr(dataset, "train"):  # it has two parts, and timm takes the second for any word that is not the first
        if split not in PART_WORDS:
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
    return (image if isinstance(image, Image.Image) else open_picture(image)), (-1 if target is None else target)


def _describe_read(reader: Any, place: int) -> str:
    return str(reader.filename(place))
