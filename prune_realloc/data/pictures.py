"""One picture: the formats that are opened, and its pixels in 8 bits, with what had to be done to get them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

_UNSAFE = ("EPS", "WMF", "PDF")
"""Pillow hands them to other programs."""
_NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG")
"""Pillow tells them by their first bytes and reads no pixels."""
_FIRST = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Tried before the others, since most pictures are."""
_ORIENTATION = 0x0112
"""EXIF's tag."""
_BITS = 258
"""TIFF's tag for the bits of a sample."""
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes of more than 8 bits; converting them clips."""
_SIXTEEN = 65535


class Unreadable(OSError):
    """The file holds no whole picture."""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are opened."""
    Image.init()
    kept = {name for name in Image.registered_extensions().values() if name in Image.OPEN}
    kept -= {*_UNSAFE, *_NOT_DECODED}
    return (*(name for name in _FIRST if name in kept), *sorted(kept.difference(_FIRST)))


@cache
def suffixes() -> frozenset[str]:
    """How the names of their files end."""
    opened = formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in opened)


def is_picture(name: str) -> bool:
    """Whether a file is one by its name."""
    return Path(name).suffix.lower() in suffixes()


def open_picture(file: str | Path | IO[bytes]) -> Image.Image:
    """A picture whose pixels are not read yet, in a format told by its content.

    Raises:
        Unreadable: it is none.
    """
    try:
        return Image.open(file, formats=formats())
    except Exception as error:  # Pillow's readers raise of every kind on broken files
        raise Unreadable(_why(error)) from error


@dataclass(frozen=True)
class Span:
    """What becomes 0, and what 255."""

    low: float
    high: float
    whose: str
    """Both in words."""


Spans = Mapping[str, Span]
"""Of a data set: Pillow's mode -> the one span of all its pictures in that mode."""


def eight_bits(image: Image.Image, mode: str, spans: Spans | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame as `L` or `RGB`, and remarks on what was done or left to get there.

    Pixels of more bits are scaled by their range. An EXIF orientation is not applied, as in torchvision's folders.

    Args:
        spans: of the data set that the picture is from; None: it is alone.

    Raises:
        Unreadable: the picture is damaged, or has values outside of the data set's span.
    """
    try:
        image.load()
        remarks = [*_remarks(image)]
        if image.mode in _WIDE:
            image, remark = _scaled(image, spans)
            remarks.append(remark)
        return image.convert(mode), tuple(remarks)
    except Exception as error:  # as above
        raise Unreadable(_why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "holds no picture in a format that Pillow opens"
    return " ".join(str(error).split()) or type(error).__name__


def _remarks(image: Image.Image) -> list[str]:
    found = []
    with suppress(Exception):  # broken EXIF, or broken frames after the first, are no harm
        if 2 <= image.getexif().get(_ORIENTATION, 1) <= 8:
            found.append("an EXIF orientation, not applied, as in torchvision")
        if getattr(image, "is_animated", False):
            found.append("several frames, of which the first is taken")
    return found


def _scaled(image: Image.Image, spans: Spans | None) -> tuple[Image.Image, str]:
    """The picture in 8 bits, and the remark that says by which range."""
    pixels = np.asarray(image).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise Unreadable("has pixels that are not finite")
    low, high = float(pixels.min()), float(pixels.max())
    span = _by_type(image) or (spans or {}).get(image.mode)
    if span is None and spans is None:
        span = span_of(image.mode, low, high)
    if span is None or not span.low <= low <= high <= span.high:
        known = "not known" if span is None else span.whose
        raise Unreadable(f"has values {low:g} .. {high:g}, and the range of the data set is {known}")
    scaled = np.rint((pixels - span.low) * 255 / ((span.high - span.low) or 1.0)).astype(np.uint8)
    kind = "16 bits" if _sixteen(image) else {"F": "floating point", "I": "32-bit integers"}[image.mode]
    return Image.fromarray(scaled), f"{kind}, scaled to 8 bits from {span.whose}"


def extent(image: Image.Image) -> tuple[float, float] | None:
    """The least and the largest value where these decide how it is scaled; None: its type does, or it is damaged."""
    with suppress(Exception):  # as above
        if image.mode in _WIDE and _by_type(image) is None:
            low, high = image.getextrema()
            return (float(low), float(high)) if np.isfinite([low, high]).all() else None  # type: ignore[arg-type]
    return None


def _sixteen(image: Image.Image) -> bool:
    """Whether the file has 16 bits, which Pillow may open as 32."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _by_type(image: Image.Image) -> Span | None:
    """The span that a picture's type has, whatever its values."""
    bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
    if image.mode.startswith("I;16") and 8 < bits < 16:
        return Span(0.0, float(2**bits - 1), f"0 .. {2**bits - 1}")
    return Span(0.0, float(_SIXTEEN), f"0 .. {_SIXTEEN}") if _sixteen(image) else None


def span_of(mode: str, low: float, high: float) -> Span:
    """The span of pictures in a mode without one of its own, whose values lie between two."""
    for top in (1, 255, _SIXTEEN) if mode == "F" else (255, _SIXTEEN):
        if 0 <= low <= high <= top:
            return Span(0.0, float(top), f"0 .. {top}")
    return Span(low, high, f"{low:g} .. {high:g}, the least and the largest value")
