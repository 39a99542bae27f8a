"""Which level of nested folders holds the classes: torchvision takes the first, timm the last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prune_realloc.core.errors import InputError
from prune_realloc.data.labels import Known, shortened, unknown_classes

PARTS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"), ("test", "testing"))
"""Names of the folders of parts; those of one group stand for each other."""
PART_WORDS = frozenset(sum(PARTS, ()))
MAX_BESIDE = 0.05
"""Share of the pictures that may lie beside the folders of the others before the data is refused."""
_MONTH = r"(?:0?[1-9]|1[0-2]|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d\d"
_WEEKDAY = "(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_ORDERS = (_YEAR, _MONTH, _DAY), (_DAY, _MONTH, _YEAR), (_MONTH, _DAY, _YEAR)
_WHOLE = "|".join([r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])", *map("[-_./ ]".join, _ORDERS)])
DATE = re.compile(
    rf"(?:{_WHOLE})(?:[-_ t].*)?|{_YEAR}(?:[-_./ ]{_MONTH})?|(?:day|week|month)[-_ ]?\d+|{_WEEKDAY}", re.IGNORECASE
)
"""Names of folders by time; a whole date may have more after it."""
_Path = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Where the classes of a data set are."""

    class_of: Mapping[str, str]
    """Folder with pictures -> the name of its class."""
    above: str | None
    """The folder that holds the class folders; None: several do, and names tell which they are."""
    beside: tuple[str, ...]
    """Folders whose own pictures, those not in folders inside, are left out."""
    empty: tuple[str, ...] = ()
    """Class folders in which there is no file."""


def class_layout(where: str, folders: Mapping[str, int], empty: Collection[str], known: Known | None) -> Layout:
    """The class of every folder that has pictures.

    Args:
        where: what messages call the data set.
        folders: folder below the data set, `/` between names and empty for itself -> pictures in it.
        empty: folders in which there is nothing.
        known: names of classes, where there are any.

    Raises:
        InputError: it cannot be told; the message names the folders.
    """
    beside = _beside(where, folders, known)
    paths = {folder: tuple(folder.split("/")) for folder in folders if folder not in beside}
    _check_parts(where, paths.values())
    if known is not None:
        return Layout(_by_names(where, paths, known), None, beside)
    bare = [tuple(folder.split("/")) for folder in empty]
    level = _level(where, paths, bare)
    above = next(iter(paths.values()))[:level]
    names = {path[level] for path in paths.values()}
    more = {path[level] for path in bare if len(path) > level and path[:level] == above} - names
    return Layout({f: path[level] for f, path in paths.items()}, "/".join(above), beside, tuple(sorted(more)))


def _beside(where: str, folders: Mapping[str, int], known: Known | None) -> tuple[str, ...]:
    """Folders that all others are in, and that have few pictures of their own."""
    found: list[str] = []
    total, above = sum(folders.values()), ""
    while True:
        start = f"{above}/" if above else ""
        inside = sorted({folder[len(start) :].split("/")[0] for folder in folders if folder.startswith(start)} - {""})
        if not inside:
            return tuple(found)
        if above in folders:
            if folders[above] > max(1, MAX_BESIDE * total):
                raise InputError(
                    f"data {where!r} has {folders[above]} pictures in {above or 'itself'!r} beside its folders "
                    f"{shortened(inside)}; move these or those elsewhere, or give "
                    "--no-labels (not for eval) to use all of them"
                )
            found.append(above)
        if len(inside) > 1 or (known is not None and known.label(inside[0]) is not None):
            return tuple(found)
        above = start + inside[0]


def _check_parts(where: str, paths: Iterable[_Path]) -> None:
    """Refuses `cat/train/`, `cat/val/`: the parts would be mixed."""
    found = {name for path in paths for name in path if name.lower() in PART_WORDS}
    if len(found) > 1:
        raise InputError(
            f"data {where!r} has the folders {shortened(sorted(found))} below others; put the parts above the class "
            "folders, or give one of them as --data"
        )


def _by_names(where: str, paths: Mapping[str, _Path], known: Known) -> dict[str, str]:
    """The one folder of each path whose name is that of a class."""
    hits = {folder: {name for name in path if known.label(name) is not None} for folder, path in paths.items()}
    if several := [folder for folder, names in hits.items() if len(names) > 1]:
        depth = min(map(len, paths.values()))
        levels = [{path[level] for path in paths.values()} for level in range(depth)]
        fit = [n for n, names in enumerate(levels) if len(names) > 1 and all(known.label(x) is not None for x in names)]
        if len(fit) != 1:
            raise InputError(
                f"data {where!r}: {several[0]!r} has two names of classes ({known.origin}); leave one level of folders"
            )
        return {folder: path[fit[0]] for folder, path in paths.items()}
    if without := sorted(folder for folder, names in hits.items() if not names):
        raise unknown_classes(where, without, known)
    return {folder: names.pop() for folder, names in hits.items()}


def _level(where: str, paths: Mapping[str, _Path], empty: Iterable[_Path]) -> int:
    """The level that has the classes, where all paths have the same number of levels and the names tell."""
    depth = max(map(len, paths.values()))
    if any(len(path) != depth for path in paths.values()):
        raise _nested(where, paths)
    varying = [level for level in range(depth) if len({path[level] for path in paths.values()}) > 1]
    _check_dates(where, [*paths.values()], varying)
    if not varying:
        path = next(iter(paths.values()))
        beside = [
            level
            for level, bare in product(range(depth), empty)
            if len(bare) > level and bare[:level] == path[:level] and bare[level] != path[level]
        ]
        return max(beside, default=depth - 1)
    inner = {path[level] for path in paths.values() for level in varying[1:]}
    # one folder in each: cat/2021-01-05 and dog/2021-01-06 are cats and dogs, site1/cat and site2/dog may be either
    if len({path[varying[0]] for path in paths.values()}) < len(paths) or not all(map(DATE.fullmatch, inner)):
        raise _nested(where, paths)
    return varying[0]


def _nested(where: str, paths: Mapping[str, _Path]) -> InputError:
    first, last = (sorted({path[place] for path in paths.values()}) for place in (0, -1))
    return InputError(
        f"data {where!r} has nested folders ({shortened(sorted(paths), 3)}), whose classes may be {shortened(first)} "
        f"(the first folder, as in torchvision) or {shortened(last)} (the last, as in timm); leave one level of "
        "folders, or name the classes with --class-map FILE, or give --no-labels (not for eval)"
    )


def _check_dates(where: str, paths: Sequence[_Path], varying: Sequence[int]) -> None:
    """Refuses folders by day, also in `2021/01/05`."""
    depth = len(paths[0])
    level = varying[0] if varying else depth - 1
    spans = [(start, end) for start in range(level + 1) for end in range(level + 1, depth + 1)]
    for start, end in spans:
        names = sorted({"/".join(path[start:end]) for path in paths})
        if all(DATE.fullmatch(name.replace("/", "-")) for name in names):
            raise InputError(
                f"data {where!r} has folders named like dates ({shortened(names, 3)}), which are no classes; give "
                "--no-labels (not for eval) to use their images without labels, or --class-map FILE if they are "
                "classes after all"
            )
