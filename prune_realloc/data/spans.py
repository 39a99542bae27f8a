"""By which range pictures of more than 8 bits are scaled: one for a data set, all its parts together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from prune_realloc.data.pictures import Spans, Unreadable, extent, open_picture, span_of

_EIGHT = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
"""How files end whose type tells the range; the others are opened, and those of such a type read."""
_LOOKED_AT = 256
"""Images without files that are looked at, drawn by seed 0; all are, where one of these needs it."""


def spans_of_files(root: Path, pictures: Iterable[str], others: Iterable[Path]) -> Spans:
    """The spans of the pictures in a folder.

    Args:
        pictures: paths below `root`.
        others: pictures of the other parts of the data set, gone through only where these need a span.
    """
    found = _extents(_opened(root / name for name in pictures))
    return _spans(found, _extents(_opened(others))) if found else {}


def spans_of_items(count: int, load: Callable[[int], tuple[Image.Image, int]]) -> Spans:
    """The spans of images that are no files."""
    first = sorted(random.Random(0).sample(range(count), min(count, _LOOKED_AT)))
    if not _extents(_loaded(first, load)):
        return {}
    return _spans(_extents(_loaded(range(count), load)))


def _opened(paths: Iterable[Path]) -> Iterator[Image.Image]:
    for path in paths:
        if path.suffix.lower() not in _EIGHT:
            try:
                with open_picture(path) as image:
                    yield image
            except Unreadable:
                continue


def _loaded(places: Iterable[int], load: Callable[[int], tuple[Image.Image, int]]) -> Iterator[Image.Image]:
    for place in places:
        try:
            yield load(place)[0]
        except (OSError, SyntaxError, Image.DecompressionBombError):  # said when they are read
            continue


def _extents(images: Iterable[Image.Image]) -> list[tuple[str, float, float]]:
    """Mode, least and largest value of those that need a span."""
    return [(image.mode, *found) for image in images if (found := extent(image)) is not None]


def _spans(*extents: Iterable[tuple[str, float, float]]) -> Spans:
    ends: dict[str, tuple[float, float]] = {}
    for mode, low, high in (one for some in extents for one in some):
        least, largest = ends.get(mode, (low, high))
        ends[mode] = min(least, low), max(largest, high)
    return {mode: span_of(mode, *both) for mode, both in ends.items()}
