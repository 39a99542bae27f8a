"""The images that a verb looks at, as its network wants to see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prune_realloc.core.names import Progress
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.data.stream import ImageStream, use_labels
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes


def calibration(
    net: nn.Module,
    data: str,
    *,
    split: str,
    data_dir: str | None,
    labels: bool,
    preprocess: Mapping[str, Any] | None,
    samples: int,
    batch_size: int,
    workers: int,
    seed: int,
    progress: Progress | None,
) -> ImageStream:
    """The images that a network is scored and refitted on."""
    source = open_images(data, split=split, data_dir=data_dir, samples=samples)
    prepare = preprocessing(net, input_shape(net), preprocess or {})
    labelled = use_labels(net, source, labels)
    return ImageStream(
        source,
        prepare,
        classes=count_classes(net) if labelled else None,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        progress=progress,
    )
