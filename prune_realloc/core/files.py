"""Sets of files that are there whole or not at all, and checksums by which the files of a set know each other."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prune_realloc.core.errors import InputError

CHECKSUMS = "files_sha256"
"""The key under which the last file of a set names those before it: file name -> SHA-256 of its content."""
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


def require_writable(folder: Path) -> None:
    """Create an output folder, and try whether a file can be written there.

    Raises:
        InputError: it cannot.
    """
    make_folder(folder)
    with _named(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b" ")


def json_file(content: Any) -> bytes:
    """Numbers and texts as the content of a file that people read too."""
    return (json.dumps(content, indent=1) + "\n").encode()


def write_file(path: Path, content: bytes) -> None:
    """`write_files` for one file: at every moment the old one or the new one is there."""
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, contents: Mapping[str, bytes], gone: Iterable[str] = ()) -> None:
    """Write a set of files, as `put_in_place` does; names may lie in folders below, which exist.

    Raises:
        InputError: the folder is read-only or full.
    """
    partial: dict[str, Path] = {}
    try:
        for name, content in contents.items():
            place = folder / name
            with _named(place):
                handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=_PARTIAL)
                partial[name] = Path(temporary)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                partial[name].chmod(0o644)
        put_in_place(folder, partial, gone)
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)


def put_in_place(folder: Path, written: Mapping[str, Path], gone: Iterable[str] = ()) -> None:
    """Give finished files on the same disk their names in `folder`, so that files of two sets never lie together.

    What is there of an older set goes first, its last file before the others; then the new ones come in order, the
    first in the place of the old one, which stayed until then. So whenever this is interrupted, files may be missing
    but none lies beside one of another run, and where the last file of the set is, there is all of it. Content reaches
    the disk before its name does.

    Args:
        written: name -> the finished file.
        gone: names that an older set may have and the new one has not; they go with it.

    Raises:
        InputError: a name is taken by a folder, or the disk is read-only or full.
    """
    places = {folder / name: path for name, path in written.items()}
    for place, path in places.items():
        with _named(place):
            _sync(path)
    for place in [*[*reversed(places)][:-1], *(folder / name for name in gone)]:
        with _named(place):
            place.unlink(missing_ok=True)
    _sync_folders(places)
    for place, path in places.items():
        with _named(place):
            path.replace(place)
    _sync_folders(places)


def checksums(contents: Mapping[str, bytes]) -> dict[str, str]:
    """What the last file of a set says of the others, under `CHECKSUMS`."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def clear_half_written(folder: Path) -> None:
    """Remove what `write_files` left under its temporary names when it was killed, as large as the whole files."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextmanager
def _named(place: Path) -> Iterator[None]:
    """Turns what a full or read-only disk raises into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"output {str(place)!r} cannot be written: {error.strerror}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folders(places: Iterable[Path]) -> None:
    """Makes the names in the files' folders last; some file systems know no such thing for a folder."""
    for folder in {place.parent for place in places}:
        with suppress(OSError):
            _sync(folder)
