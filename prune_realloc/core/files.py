"""Files that are there whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from prune_realloc.core.errors import InputError

_PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""


def make_folder(folder: Path) -> None:
    """Create an output folder.

    Raises:
        InputError: something that is no folder is in the way, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"output {str(folder)!r}: a file is in the way; choose another folder") from error
    except OSError as error:
        raise InputError(f"output {str(folder)!r} cannot be created: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """`write_files` for one file."""
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all under temporary names, then rename all, so that nobody ever sees half a file or half a set.

    Raises:
        InputError: the folder is read-only or full.
    """
    partial: dict[str, Path] = {}
    try:
        for name, content in contents.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=_PARTIAL)
            partial[name] = Path(temporary)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            partial[name].chmod(0o644)
        for name, written in partial.items():
            written.replace(folder / name)
    except OSError as error:
        raise InputError(f"output {str(folder / name)!r} cannot be written: {error.strerror}") from error
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)


def clear_half_written(folder: Path) -> None:
    """Remove what `write_files` left under its temporary names when it was killed, as large as the whole files."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)
