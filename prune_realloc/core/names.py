"""Names that several rooms must spell alike: files on disk, timm architectures, preprocessing fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

RECIPE_FILE, RESULT_FILE, UNITS_FILE = "recipe.yaml", "result.json", "units.json"
"""What was asked for, the numbers that came of it, and which units of the source it is, in the folder of a network."""
PRUNED, EFFICIENTVIT = "prune_realloc", "efficientvit_flex"
"""timm's names of our own architectures: any network that was cut, and the free EfficientViT."""
WEIGHTS_FILE = "model.safetensors"
"""The file of the weights in a folder that this package, or timm, writes."""
WEIGHTS_FILES = (WEIGHTS_FILE, "pytorch_model.bin")
"""The file of the weights in a folder that is read; the first that is there."""
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHTS_FILES)
"""The index in such a folder, where the weights are in several files."""
STATE_FILE = "state.safetensors"
"""Where a training run has the state that it goes on from."""
_PLACEHOLDER = re.compile(r"LABEL_\d+")
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
"""The fields of timm's `pretrained_cfg` that say how images are prepared."""
MEASURE_SECONDS = 300.0
"""What the measurement of a latency table may take, where nobody says it."""
Runtime = Literal["eager", "onnxruntime", "compiled"]
"""What runs a network, where its time is planned."""
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def count_threads(threads: int) -> str:
    """In words: `1 thread`, `2 threads`."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def are_placeholders(names: Iterable[str]) -> bool:
    """Whether classes were given no names: transformers then calls them LABEL_0, LABEL_1, ..."""
    return all(_PLACEHOLDER.fullmatch(name) for name in names)
