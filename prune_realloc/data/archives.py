"""Archives of images, which are opened under a name: webdataset's shards and parquet files."""

from __future__ import annotations

import os
import re
import tarfile
from itertools import islice
from pathlib import Path
from shlex import quote

from prune_realloc.core.errors import InputError, first_line

_PACKED = (".tar", ".parquet", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_BESIDE = (".json", ".md", ".txt", ".yaml")
"""Files that go along with archives."""
_LOOKED_AT = 1000
"""Members of an archive that are looked at to tell its kind."""
_SHARD_IMAGES = (".jpg", ".png", ".webp")
"""The images that timm reads from shards."""


def check_archives(path: Path) -> None:
    """Raises InputError where `path` is an archive, or a folder of nothing else; the message says how it is opened."""
    archives = _archives(path)
    if not archives:
        return
    first = archives[0]
    folder = path if path.is_dir() else path.parent
    if first.suffix == ".tar":
        beside = [archive for archive in archives if archive.parent == first.parent]
        raise InputError(f"data {str(path)!r} {_tar_advice(beside, first.parent)}")
    if first.suffix == ".parquet":
        raise InputError(
            f"data {str(path)!r} is of parquet files; give --data {quote(f'hfds/{folder.resolve()}')} --split "
            f"{_split(archives)} to read the columns image and label (pip install 'prune-realloc[datasets]')"
        )
    raise InputError(f"data {str(path)!r} is an archive; unpack it and give the folder")


def _archives(path: Path) -> list[Path]:
    """The archive, or those in a folder that holds nothing else."""
    if path.is_file():
        return [path] if path.suffix.lower() in _PACKED else []
    found: list[Path] = []
    for at, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [Path(at) / name for name in sorted(files) if not name.startswith(".")]
        found += [file for file in shown if file.suffix not in _BESIDE]
        if len({file.suffix for file in found} | {".tar", ".parquet"}) > 2:
            return []
    return [file for file in found if file.suffix == found[0].suffix]


def _tar_advice(archives: list[Path], folder: Path) -> str:
    first = archives[0]
    try:
        with tarfile.open(first) as archive:
            members = [Path(member.name) for member in islice(archive, _LOOKED_AT) if member.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        return f"is no tar file that can be read ({first.name}: {first_line(error)}); fetch it again"
    labelled = {str(member.with_suffix("")) for member in members if member.suffix == ".cls"}
    images = {str(member.with_suffix("")) for member in members if member.suffix in _SHARD_IMAGES}
    if not labelled & images:
        return f"holds no shards of images with .cls labels ({first.name}); unpack it and give the folder"
    return (
        f"is of webdataset's shards; give --data wds/shards --data-dir {quote(str(folder))} --split "
        f"{quote(_pattern([path.stem for path in archives]) + '.tar')} (pip install 'prune-realloc[datasets]')"
    )


def _pattern(stems: list[str]) -> str:
    """The names in braces, or the range of their numbers where these follow each other."""
    if len(stems) == 1:
        return stems[0]
    found = [re.fullmatch(r"(.*?)(\d+)", stem) for stem in stems]
    starts, numbers = {m[1] for m in found if m}, [m[2] for m in found if m]
    following = (
        [int(number) for number in numbers] == [*range(int(numbers[0]), int(numbers[0]) + len(stems))]
        if numbers
        else False
    )
    if len(starts) == 1 and following and len({*map(len, numbers)}) == 1:
        return f"{starts.pop()}{{{numbers[0]}..{numbers[-1]}}}"
    return "{" + ",".join(stems) + "}"


def _split(files: list[Path]) -> str:
    """The first part that the names of the files speak of, as datasets tells them; else all is train."""
    words = {word for path in files for word in re.split(r"[-._ \d]+", path.stem)}
    names = {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "dev", "val"),
        "test": ("test", "testing", "eval"),
    }
    return next((name for name, spoken in names.items() if words & {*spoken}), "train")
