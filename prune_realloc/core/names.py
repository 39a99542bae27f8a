"""Names that several rooms must spell alike: files on disk, timm architectures, preprocessing fields."""

from __future__ import annotations

from collections.abc import Callable

RECIPE_FILE, RESULT_FILE = "recipe.yaml", "result.json"
PRUNED, EFFICIENTVIT = "prune_realloc", "efficientvit_flex"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a folder that timm writes has its weights."""
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
STATE_FILE = "state.safetensors"
