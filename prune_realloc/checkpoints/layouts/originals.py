"""What the files of a network's authors come down to, where the tensors' shapes tell timm's name for it."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from prune_realloc.checkpoints.layouts.translated import Translated

_MEASURES: dict[str, Any] = {
    "mean": list(IMAGENET_DEFAULT_MEAN),
    "std": list(IMAGENET_DEFAULT_STD),
    "interpolation": "bicubic",
}


def by_shapes(
    origin: str,
    state: dict[str, Tensor],
    *,
    model_args: dict[str, Any] | None = None,
    left_out: tuple[str, ...] = (),
    supposed: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Translated:
    """Tensors that have timm's names already; images are prepared as the authors' script does it."""
    return Translated(
        state=state,
        architecture=None,
        model_args=model_args or {},
        pretrained_cfg=_MEASURES,
        origin=f"{origin} of its authors",
        left_out=left_out,
        supposed=(*_MEASURES, *supposed),
        notes=("mean, std and interpolation are those of the authors' script", *notes),
    )
