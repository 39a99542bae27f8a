"""How images are prepared, as files state it: for pixels from 0 to 255 as well as from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune_realloc.data.measures import BYTE


def scaled(found: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Mean and std of pixels from 0 to 255, as other libraries have them, for pixels from 0 to 1.

    Returns:
        All fields, and the names of those that were divided by 255.
    """
    large = [key for key in ("mean", "std") if key in found and max(found[key]) > 2]
    return {**found, **{key: [value / BYTE for value in found[key]] for key in large}}, tuple(large)
