"""Which label a class has: by names that are known, or by an order of the names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.names import are_placeholders
from prune_realloc.core.taken import Fact
from prune_realloc.data.class_map import SYNSET, read_class_map
from prune_realloc.runtime.networks import count_classes


class UnknownClasses(InputError):
    """The data has classes whose names are not among those that are known."""


@dataclass(frozen=True)
class Naming:
    """What is known of the labels before images are opened."""

    wanted: bool = True
    """False: images are used without labels."""
    names: tuple[str, ...] = ()
    """Of the network's classes, in the order of its outputs."""
    classes: int = 0
    """How many the network has; 0: it has none, or there is no network yet."""
    class_map: str | None = None
    """File of class names and labels."""
    class_order: str | None = None
    """How labels follow from names where nothing else tells them: `torchvision` or `timm`."""
    free: bool = False
    """A new classifier will learn the labels: any order is right, and timm's is taken where none is given."""

    def __post_init__(self) -> None:
        if self.class_order not in (None, "torchvision", "timm"):
            raise InputError(f"class_order {self.class_order!r} is unknown; choose torchvision or timm")
        if self.class_map is not None and self.class_order is not None:
            raise InputError(
                f"class_order {self.class_order!r} says nothing beside class_map {self.class_map!r}, which has the "
                "labels; give one of them"
            )


@dataclass(frozen=True)
class Known:
    """Class names whose labels are known."""

    labels: Mapping[str, int]
    origin: str
    some: bool = False
    """Perhaps not all that the network has, as in a map of a few of them."""

    def label(self, name: str) -> int | None:
        """The label of a name, which may differ in capitals, spaces and `_`, or be one of several, if only one fits."""
        return self.labels.get(name, self._alike.get(_plain(name)))

    @cached_property
    def _alike(self) -> dict[str, int]:
        """Other ways to write the names: a whole name goes before one of `tench, Tinca tinca`."""
        found: dict[str, set[int]] = {}
        for parts in (lambda name: [name], lambda name: name.split(",") if "," in name else []):
            more: dict[str, set[int]] = {}
            for name, label in self.labels.items():
                for part in parts(name):
                    more.setdefault(_plain(part), set()).add(label)
            found = more | found
        return {name: label for name, (label, *others) in found.items() if not others}


@dataclass(frozen=True)
class Labels:
    """Class name -> label, and what that says of the data."""

    of: Mapping[str, int]
    num_classes: int | None
    least_classes: int
    class_names: tuple[str, ...]
    fact: Fact


def naming_of(net: nn.Module, wanted: bool, class_map: str | None = None, class_order: str | None = None) -> Naming:
    """What a network, and the options, say of labels."""
    classes = count_classes(net)
    names = tuple((getattr(net, "pretrained_cfg", None) or {}).get("label_names") or ())
    if len(names) != classes or are_placeholders(map(str, names)):
        names = ()
    return Naming(wanted and classes > 0, tuple(map(str, names)), classes, class_map, class_order)


def known_names(naming: Naming, names: Collection[str]) -> Known | None:
    """The names that decide the labels of classes called `names`; None: no names do.

    Raises:
        InputError: the class map cannot be read.
    """
    if naming.class_map is not None:
        return Known(read_class_map(naming.class_map), f"--class-map {naming.class_map}", some=True)
    once = {name: label for label, name in enumerate(naming.names) if naming.names.count(name) == 1}
    given = Known(once, "names in the checkpoint", some=len(once) < len(naming.names))
    if any(given.label(name) is not None for name in names):
        return given
    subset = infer_imagenet_subset({"num_classes": naming.classes})
    synsets = {name for name in names if SYNSET.fullmatch(name)}
    if subset is None or not synsets:
        return None
    order = {name: label for label, name in enumerate(ImageNetInfo(subset).label_names())}
    return Known(order, f"{subset}'s synsets") if synsets <= order.keys() else None


def natural_key(name: str) -> list[int | str]:
    """What timm sorts names by: numbers by their value, letters without regard to capitals."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name.lower()))]


def labels_by_name(where: str, names: Collection[str], known: Known) -> Labels:
    """Labels of classes whose names are known.

    Raises:
        InputError: a name is not among them.
    """
    found = {name: known.label(name) for name in sorted(names)}
    of = {name: label for name, label in found.items() if label is not None}
    if unknown := [name for name in found if name not in of]:
        raise unknown_classes(where, unknown, known)
    if len({*of.values()}) < len(of):
        twice = [name for name in of if list(of.values()).count(of[name]) > 1]
        raise InputError(f"data {where!r}: {shortened(twice)} are one class by {known.origin}; make them one folder")
    least = max(known.labels.values()) + 1
    whole = len(known.labels) == least
    order = tuple(sorted(known.labels, key=lambda name: known.labels[name]))
    seen = sorted(of, key=lambda name: of[name])
    return Labels(
        of,
        num_classes=least if whole and not known.some else None,
        least_classes=least,
        class_names=order if whole else (),
        fact=Fact(class_range(seen) + ("" if len(seen) == len(order) else f", of {len(order)}"), known.origin),
    )


def unknown_classes(where: str, names: Sequence[str], known: Known) -> UnknownClasses:
    """The error that names classes, or folders, without a label."""
    return UnknownClasses(
        f"data {where!r}: {shortened(names)} is none of the {len(known.labels)} classes of {known.origin} "
        f"({shortened(list(known.labels), 3)}); rename or remove it, give --class-map FILE, or "
        "--no-labels (not for eval)"
    )


def labels_by_order(where: str, names: Collection[str], naming: Naming) -> Labels:
    """Labels of classes by the order of their names.

    Raises:
        InputError: torchvision and timm sort them otherwise, and nothing says which order is meant.
        UnknownClasses: the network's classes have names, and these are others.
    """
    if naming.names and naming.class_order is None and not naming.free:
        raise UnknownClasses(
            f"data {where!r}: none of its folders ({shortened(sorted(names))}) is called like one of the "
            f"{len(naming.names)} classes of the checkpoint ({shortened(naming.names)}); give --class-map FILE with "
            "the label of each folder, or --class-order torchvision or timm if the labels follow from their order, or "
            "--no-labels (not for eval)"
        )
    orders = {"torchvision": sorted(names), "timm": sorted(names, key=lambda name: (natural_key(name), name))}
    agree = orders["torchvision"] == orders["timm"]
    # with another number of classes the data is refused for that, or gets a new classifier
    decided = agree or naming.class_order is not None or naming.free or naming.classes not in (0, len(names))
    if not decided:
        pairs = zip(orders["torchvision"], orders["timm"], strict=True)
        start = next(place for place, (one, other) in enumerate(pairs) if one != other)
        one, other = (shortened(order[start:]) for order in orders.values())
        raise InputError(
            f"data {where!r}: labels follow from the order of the classes, and from class {start} on that is {one} in "
            f"torchvision, {other} in timm; give --class-order torchvision or timm, as the model was trained, or "
            "--class-map FILE, or --no-labels (not for eval)"
        )
    order = orders[naming.class_order or "timm"]
    if naming.class_order is not None and (naming.names or not agree):
        origin = f"--class-order {naming.class_order}"
    else:
        origin = "folder names, both orders agree" if agree else "folder names in timm's order"
    if naming.names:
        origin += f"; the checkpoint has other names, {class_range(naming.names)}"
    fact = Fact(class_range(order), origin)
    return Labels({name: label for label, name in enumerate(order)}, len(order), 0, tuple(order), fact)


def class_range(names: Sequence[str]) -> str:
    """How many there are, the first and the last."""
    return f"{len(names)}, {names[0]} .. {names[-1]}" if len(names) > 1 else f"{len(names)}, {names[0]}"


def shortened(names: Sequence[str], count: int = 5) -> str:
    """The first few, for messages."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()
