"""What lies below a folder: pictures in timm's order, and what is left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prune_realloc.core.errors import InputError
from prune_realloc.data.labels import natural_key
from prune_realloc.data.pictures import is_picture

_NEVER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
"""Left by systems; what begins with a dot is too."""
HIDDEN, NO_PICTURE, TWICE = "hidden", "in no picture format", "links to folders that are there too"
"""Why files are left out."""


@dataclass(frozen=True)
class Tree:
    """What lies below a folder; paths are relative to it."""

    pictures: list[str] = field(default_factory=list)
    """In timm's order."""
    folders: dict[str, int] = field(default_factory=dict)
    """Folder -> pictures in it, those in folders inside not counted."""
    empty: list[str] = field(default_factory=list)
    """Folders in which there is nothing."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> files and folders."""


def walk(root: Path) -> Tree:
    """All that is in a folder and in those inside, links followed, each folder once.

    Raises:
        InputError: a folder cannot be read.
    """
    tree = Tree()

    def refuse(error: OSError) -> None:
        raise InputError(f"data {str(root)!r}: {error.filename!r} cannot be read ({error.strerror}); give access to it")

    left, seen = [str(root)], {str(around) for around in root.resolve().parents}
    while left:
        # links come after all folders, so that none is taken under the name of a link to it
        for at, folders, files in os.walk(left.pop(0), onerror=refuse):
            inside, real = os.path.relpath(at, root).replace(os.sep, "/"), os.path.realpath(at)
            start = "" if inside == "." else f"{inside}/"
            if real in seen:
                folders.clear()
                tree.left_out.setdefault(TWICE, []).append(inside)
                continue
            seen.add(real)
            folders[:], hidden = _seen(folders)
            shown, more = _seen(files)
            left += [f"{at}/{name}" for name in folders if Path(at, name).is_symlink()]
            tree.left_out.setdefault(HIDDEN, []).extend(start + name for name in [*hidden, *more])
            tree.left_out.setdefault(NO_PICTURE, []).extend(start + name for name in shown if not is_picture(name))
            pictures = [start + name for name in shown if is_picture(name)]
            if pictures:
                tree.folders[start[:-1]] = len(pictures)
                tree.pictures.extend(pictures)
            elif start and not folders and not shown:
                tree.empty.append(start[:-1])
    tree.pictures.sort(key=lambda path: (natural_key(path), path))
    return tree


def _seen(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that count and those that never do, sorted."""
    hidden = [name for name in sorted(names) if name.startswith(".") or name.lower() in _NEVER]
    return [name for name in sorted(names) if name not in hidden], hidden


def folders_in(folder: Path) -> dict[str, Path]:
    """The folders in a folder."""
    with os.scandir(folder) as entries:
        names, _ = _seen([entry.name for entry in entries if entry.is_dir()])
    return {name: folder / name for name in names}


def has_pictures(folder: Path) -> bool:
    """Whether one lies in it or further down."""
    left, seen = [folder], set()
    while left:
        at = left.pop()
        if (real := os.path.realpath(at)) in seen:
            continue
        seen.add(real)
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _NEVER:
                    continue
                if entry.is_dir():
                    left.append(at / entry.name)
                elif is_picture(entry.name):
                    return True
    return False
