"""Opens what is measured: a network, and images as it wants to see them, from the options that describe both."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.names import Progress
from prune_realloc.data.images import open_images
from prune_realloc.data.labels import naming_of
from prune_realloc.data.preprocessing import preprocessing, preprocessing_taken
from prune_realloc.data.stream import ImageStream, use_labels
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.scorers import WEIGHT_SCORERS
from prune_realloc.recipe.document import Data, Source
from prune_realloc.runtime.networks import count_classes


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read; none of it changes what is found, up to rounding."""

    batch_size: int
    """Images at a time."""
    workers: int = 0
    """Processes that read them; 0: this one does."""
    progress: Progress | None = None
    """Told how many are done."""

    def __post_init__(self) -> None:
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("workers", self.workers, 0)


def open_network(source: Source) -> nn.Module:
    """The network that the options name; with neither a name nor a checkpoint, the shipped one.

    Raises:
        InputError: it cannot be opened; the message says what to change.
    """
    return load_model(
        source.model,
        ckpt=source.ckpt,
        pretrained=source.pretrained,
        ema=source.ema,
        img_size=source.img_size,
        model_args=source.model_args,
    )


def is_shipped(source: Source) -> bool:
    """Whether the options name no network, so that it is the shipped one."""
    return source.model is None and source.ckpt is None


def with_shipped_images(data: Data, source: Source) -> Data:
    """The shipped images where none are named for the shipped network."""
    return data.model_copy(update={"name": "demo"}) if data.name is None and is_shipped(source) else data


def require_images(data: Data, scorer: str) -> None:
    """Raises InputError where a scorer looks at images and none are named."""
    if data.name is None and scorer not in WEIGHT_SCORERS:
        raise InputError(
            f"scorer {scorer!r} looks at images; name some with --data (in Python also batches=), or use one of "
            f"{WEIGHT_SCORERS}"
        )


def open_stream(net: nn.Module, data: Data, reading: Reading, samples: int | None) -> ImageStream:
    """The images that `data` names, prepared for `net`.

    Args:
        samples: how many, chosen by the seed of `data`; None: all.

    Raises:
        InputError: they cannot be opened, or are not for this network.
    """
    assert data.name is not None
    naming = naming_of(net, data.labels, data.class_map, data.class_order)
    images = open_images(
        data.name, split=data.split, data_dir=data.data_dir, samples=samples or sys.maxsize, naming=naming
    )
    prepare = preprocessing(net, input_shape(net), data.preprocess or {})
    labelled = use_labels(net, images, data.labels)
    return ImageStream(
        images,
        prepare,
        classes=count_classes(net) if labelled else None,
        samples=samples,
        batch_size=reading.batch_size,
        seed=data.seed,
        workers=reading.workers,
        progress=reading.progress,
        prepared=preprocessing_taken(net, prepare, data.preprocess or {}),
    )
