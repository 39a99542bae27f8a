"""The files of a folder that go with its weights, as other libraries write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import INDEX_FILES, WEIGHTS_FILES

_WEIGHTS = (
    *(name for pair in zip(WEIGHTS_FILES, INDEX_FILES, strict=True) for name in pair),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
_CONFIGS = ("config.json", "open_clip_config.json")
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_MOST_BYTES = 2**26
NO_JSON = (TypeError, ValueError, RecursionError)
"""What reading JSON raises, bytes that are no text included."""


def weights_in(folder: Path) -> Path | None:
    """The file of a folder's weights, or their index where they are in shards; None: there is none."""
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def config_in(folder: Path) -> dict[str, Any] | None:
    """What `config.json` and open_clip's file state, which have no fields in common; None: there is neither.

    Raises:
        InputError: one is damaged.
    """
    found = [read_json(folder / name) for name in _CONFIGS if (folder / name).is_file()]
    return {key: value for one in found for key, value in one.items()} if found else None


def preprocessor_in(folder: Path) -> dict[str, Any] | None:
    """What the folder says of how images are prepared; None: nothing.

    Raises:
        InputError: the file is damaged.
    """
    return next((read_json(folder / name) for name in _PREPROCESSORS if (folder / name).is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        return mapping_in(path)
    except NO_JSON as error:
        raise InputError(f"{str(path)!r} is no JSON mapping ({error!r}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from error


def mapping_in(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; raises one of `NO_JSON` where it holds something else, or is too large."""
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("too large")
    content = json.loads(path.read_bytes())
    if not isinstance(content, Mapping):
        raise TypeError(f"a {type(content).__name__}")
    return dict(content)
