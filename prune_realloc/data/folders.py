"""Folders of pictures on this machine: which part is opened, which label each picture has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Fact
from prune_realloc.data.batches import ImageSource
from prune_realloc.data.labels import Labels, Naming, known_names, labels_by_name, labels_by_order, shortened
from prune_realloc.data.levels import PART_WORDS, PARTS, Layout, class_layout
from prune_realloc.data.pictures import is_picture, open_picture
from prune_realloc.data.spans import spans_of_files
from prune_realloc.data.tree import Tree, folders_in, has_pictures, walk

BESIDE = "beside the class folders"
"""Why pictures are left out."""


def words_of(split: str) -> tuple[str, ...]:
    """All words that mean the same part."""
    return next((group for group in PARTS if split.lower() in group), (split,))


def open_folder(folder: Path, split: str, naming: Naming) -> ImageSource:
    """The pictures of a folder, or of the one of its parts that is asked for; labels from the folders that they are in.

    Raises:
        InputError: there are none, or nothing tells their classes.
    """
    parts = _parts(folder)
    part = _part(folder, parts, split)
    root = folder if part is None else part
    tree = walk(root)
    if not tree.pictures:
        others = "".join(f"; {text}" for text in said(tree.left_out))
        raise InputError(
            f"data {str(folder)!r} cannot be opened: no picture is in {root.name!r}{others}; give a folder of images, "
            "of class folders, or of train/ and val/ with class folders"
        )
    told = "" if part is None else part.name
    siblings = parts or ({} if part is None else folders_in(folder))
    beside = [other for other in siblings.values() if other != part]
    spans = spans_of_files(root, tree.pictures, (at / path for at in beside for path in walk(at).pictures))
    if not naming.wanted or set(tree.folders) == {""}:
        return replace(_unlabelled(folder, root, told, tree, naming), spans=spans)
    return replace(_labelled(folder, root, told, tree, naming, beside), spans=spans)


def _parts(folder: Path) -> dict[str, Path]:
    """Folders such as train/ and val/, also where another folder is around them; a class may be called so too."""
    while True:
        inside = folders_in(folder)
        full = [name for name, path in inside.items() if has_pictures(path)]
        named = {name: path for name, path in inside.items() if name.lower() in PART_WORDS}
        deep = any(has_pictures(path) for part in named.values() for path in folders_in(part).values())
        if deep or (full and named.keys() >= {*full}):
            return named
        if len(full) != 1 or any(is_picture(path.name) for path in folder.iterdir()):
            return {}
        folder = inside[full[0]]


def _part(folder: Path, parts: Mapping[str, Path], split: str) -> Path | None:
    """The folder of the part that is asked for; None: there are no parts.

    timm takes all of it where a part is missing, we do not.
    """
    if split not in PART_WORDS and (folder / split).is_dir():
        return folder / split
    for word in (split, *words_of(split)):
        for name, path in parts.items():
            if name == word or name.lower() == word.lower():
                return path
    if parts:
        raise InputError(f"data {str(folder)!r} has no part {split!r}; choose one of {', '.join(sorted(parts))}")
    return None


def _unlabelled(folder: Path, root: Path, part: str, tree: Tree, naming: Naming) -> ImageSource:
    flat = set(tree.folders) == {""}
    pictures = sorted(tree.pictures) if flat else tree.pictures
    layout = Fact("images without labels", "no folders in it" if naming.wanted else "no labels are wanted")
    return ImageSource(
        name=str(folder),
        count=len(pictures),
        load=partial(_load, str(root), pictures, None),
        describe=partial(_describe, pictures),
        num_classes=0,
        part=part,
        naming=naming,
        taken={"layout": layout} | _left_out(tree.left_out),
    )


def _labelled(folder: Path, root: Path, part: str, tree: Tree, naming: Naming, others: Iterable[Path]) -> ImageSource:
    where = str(folder)
    names = {name for path in [*tree.folders, *tree.empty] for name in path.split("/")}
    known = known_names(naming, names)
    layout = class_layout(where, tree.folders, tree.empty, known)
    here = set(layout.class_of.values())
    classes = here if layout.above is None else _classes(here | {*layout.empty}, [o / layout.above for o in others])
    labels = labels_by_order(where, classes, naming) if known is None else labels_by_name(where, classes, known)
    label_of = {at: labels.of[name] for at, name in layout.class_of.items()}
    pictures = [path for path in tree.pictures if _parent(path) in label_of]
    beside = [path for path in tree.pictures if _parent(path) not in label_of]
    empty = tuple(sorted(classes - here))
    return ImageSource(
        name=where,
        count=len(pictures),
        load=partial(_load, str(root), pictures, [label_of[_parent(path)] for path in pictures]),
        describe=partial(_describe, pictures),
        num_classes=labels.num_classes,
        class_names=labels.class_names,
        part=part,
        least_classes=labels.least_classes,
        empty=empty,
        naming=naming,
        taken={"layout": _layout_fact(layout, part), "classes": _class_fact(labels, empty)}
        | _left_out(tree.left_out | {BESIDE: beside}),
    )


def _classes(names: set[str], others: Sequence[Path]) -> set[str]:
    """Class folders of this part, and of those parts that share some with it."""
    pools = [
        {name for name, path in folders_in(other).items() if has_pictures(path) or not any(path.iterdir())}
        for other in others
        if other.is_dir()
    ]
    while more := set().union(*(pool for pool in pools if pool & names)) - names:
        names = names | more
    return names


def _layout_fact(layout: Layout, part: str) -> Fact:
    ways = {f"/{folder}/".partition(f"/{name}/")[2].strip("/") for folder, name in layout.class_of.items()}
    value = "class folders" + (f" of {part}" if part else "")
    if layout.above is None:
        return Fact(value + (", nested" if ways != {""} else ""), "names of the classes")
    if len(ways) > 1:
        return Fact(f"{value}, nested", "the folders")
    inner = ways.pop()
    # it may be a class too, the only one here, in folders of something else
    return Fact(value + (f", each with {inner}/ inside" if inner else ""), "the folders", guessed=bool(inner))


def _class_fact(labels: Labels, empty: Sequence[str]) -> Fact:
    without = f"; no images of {shortened(empty)}" if empty else ""
    return Fact(f"{labels.fact.value}{without}", labels.fact.origin, labels.fact.guessed)


def said(left_out: Mapping[str, Collection[str]]) -> list[str]:
    """How many files are left out for which reason, and the first of them."""
    return [f"{len(names)} {reason} ({shortened([*names], 3)})" for reason, names in left_out.items() if names]


def _left_out(left_out: Mapping[str, Collection[str]]) -> dict[str, Fact]:
    found = said(left_out)
    return {"left out": Fact(found, "the folders")} if found else {}


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _load(root: str, pictures: Sequence[str], labels: Sequence[int] | None, place: int) -> tuple[Image.Image, int]:
    return open_picture(f"{root}/{pictures[place]}"), -1 if labels is None else labels[place]


def _describe(pictures: Sequence[str], place: int) -> str:
    return pictures[place]
