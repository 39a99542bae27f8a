"""How images are prepared: Hugging Face's `preprocessor_config.json` in timm's words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prune_realloc.checkpoints.layouts.stated import Stated

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""
_BYTE = 1 / 255


def prepared(preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """Mean, standard deviation, interpolation and crop, as far as they are stated.

    Args:
        preprocessor: the file's content; or of a `processor_config.json`, where images are one part of several.

    Raises:
        InputError: a field holds what it cannot.
    """
    if preprocessor is None:
        return {}
    inner = preprocessor.get("image_processor")
    stated = Stated(inner if isinstance(inner, Mapping) else preprocessor, "preprocessor_config.json")
    out = _normalised(stated)
    if stated.get("do_resize") is not False:
        resample = stated.get("resample")
        if isinstance(resample, int) and resample in _RESAMPLE:
            out["interpolation"] = _RESAMPLE[resample]
        out |= _cropped(stated)
    return out


def _normalised(stated: Stated) -> dict[str, Any]:
    """timm divides pixels by 255 before; another factor goes into mean and deviation."""
    rescales = stated.get("do_rescale") is not False
    factor = stated.number("rescale_factor") if rescales and stated.get("rescale_factor") is not None else _BYTE
    scale = 1.0 if math.isclose(factor, _BYTE, rel_tol=1e-4) else 255 * factor
    if not rescales:
        scale = 255.0
    if scale == 0:
        raise stated.wrong("rescale_factor", "a factor other than 0")
    if stated.get("do_normalize") is False:
        return {"mean": [0.0] * 3, "std": [1 / scale] * 3}
    out = {}
    for key, ours in (("image_mean", "mean"), ("image_std", "std")):
        if stated.get(key) is not None:
            out[ours] = [value / scale for value in _three(stated, key)]
    return out


def _three(stated: Stated, key: str) -> list[float]:
    value = stated.get(key)
    values = [value] * 3 if isinstance(value, int | float) else value
    plain = isinstance(values, list | tuple) and len(values) in (1, 3)
    if not plain or not all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values
    ):
        raise stated.wrong(key, "a list of three numbers")
    if key == "image_std" and not all(one > 0 for one in values):
        raise stated.wrong(key, "a list of three positive numbers")
    return [float(one) for one in values]


def _cropped(stated: Stated) -> dict[str, Any]:
    """An image is resized by its shorter side and cropped, or squeezed to the size."""
    short, wide = _side(stated, "size")
    if short is None:
        return {}
    if stated.get("do_center_crop"):
        crop, _ = _side(stated, "crop_size")
        if crop is None:
            return {}
        return {"crop_pct": crop / short, "crop_mode": "squash" if wide else "center"}
    if wide:
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    # DeiT's and ConvNeXt's older processors state a part of the image in place of a crop
    part = stated.get("crop_pct")
    return {"crop_pct": float(part), "crop_mode": "center"} if isinstance(part, float) and 0 < part <= 1 else {}


def _side(stated: Stated, key: str) -> tuple[int | None, bool]:
    """A size as it may be written, by its height or shorter side; and whether both sides are stated."""
    value = stated.get(key)
    both = isinstance(value, Mapping) and "height" in value
    if isinstance(value, Mapping):
        value = value.get("height", value.get("shortest_edge"))
    if value is None:
        return None, False
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**16:
        raise stated.wrong(key, "a size in pixels")
    # a bare number is a square for ViT's processors; for those that crop, the shorter side
    return value, both or (not isinstance(stated.get(key), Mapping) and not stated.get("do_center_crop"))
