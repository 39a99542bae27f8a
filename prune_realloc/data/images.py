"""Data sets of images: folders, IDX files, the shipped subset, and what timm opens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Fact
from prune_realloc.data.archives import check_archives
from prune_realloc.data.batches import ImageSource
from prune_realloc.data.folders import open_folder
from prune_realloc.data.idx import holds_idx, open_idx
from prune_realloc.data.labels import Naming, class_range, known_names, labels_by_name
from prune_realloc.data.named import open_named
from prune_realloc.data.spans import spans_of_items

DEMO = Path(__file__).parents[1] / "assets" / "fashion_mnist"
_NO_NAMING = Naming()


def open_images(
    spec: str,
    *,
    split: str = "train",
    data_dir: str | None = None,
    samples: int = 1024,
    naming: Naming = _NO_NAMING,
) -> ImageSource:
    """The data set that `spec` names.

    Args:
        spec: `demo`; a folder of class folders (or of `train/`, `val/` with class folders), of images without
            labels, or of IDX files; or a name that timm's `create_dataset` takes (`torch/cifar10`, `hfds/...`,
            `wds/...`), never downloaded here.
        split: which part, where the data set has parts.
        data_dir: where a named data set lies.
        samples: how many images are wanted; only data sets that stream use it.
        naming: what is known of the labels.

    Raises:
        InputError: nothing readable is there, or its labels cannot be told.
    """
    path = Path(spec)
    if spec == "demo":
        return _aligned(replace(open_idx(DEMO, split), name="demo", num_classes=10), naming)
    check_archives(path)
    if path.is_dir():
        try:
            if holds_idx(path):
                return _aligned(open_idx(path, split), naming)
            return open_folder(path, split, naming)
        except OSError as error:
            raise InputError(f"data {spec!r} cannot be read ({error}); give access to it") from error
    if path.exists():
        raise InputError(f"data {spec!r} is a file; give a folder or the name of a data set")
    prefix = spec.split("/")[0]
    if prefix in ("torch", "hfds", "hfids", "tfds", "wds") and "/" in spec:
        source = open_named(spec, Path(data_dir) if data_dir else None, split, samples)
        return _aligned(replace(source, spans=spans_of_items(source.count, source.load)), naming)
    raise InputError(
        f"data {spec!r} does not exist; give a folder of images, 'demo', or a timm data set such as torch/cifar10"
    )


def _aligned(source: ImageSource, naming: Naming) -> ImageSource:
    """A data set that has labels itself, with those of the network where both have names of the classes.

    Raises:
        InputError: only some of the names are the network's.
    """
    source = replace(source, naming=naming)
    if not naming.wanted or source.num_classes == 0:
        return replace(source, taken={"layout": Fact("images without labels", _why(naming))})
    names = source.class_names
    if naming.class_order is not None or (naming.class_map is not None and not names):
        raise InputError(
            f"class_{'map' if naming.class_order is None else 'order'} is for class folders, and the labels of "
            f"{source.name!r} are in its files; leave it out"
        )
    known = known_names(naming, names) if names else None
    if known is None:
        return replace(source, taken={"classes": _own_classes(source, naming)})
    labels = labels_by_name(source.name, names, known)
    order = tuple(labels.of[name] for name in names)
    return replace(
        source,
        load=_Relabelled(source, order),
        num_classes=labels.num_classes,
        class_names=labels.class_names,
        least_classes=labels.least_classes,
        taken={"classes": labels.fact},
    )


def _own_classes(source: ImageSource, naming: Naming) -> Fact:
    """The classes of a data set whose labels are taken as they are."""
    classes = source.num_classes or source.least_classes
    named = bool(naming.names) and len(naming.names) == classes
    names = source.class_names or (naming.names if named else [str(label) for label in range(classes)])
    text = class_range(names) if classes else "as many as there are labels"
    if naming.names and source.class_names:
        others = f"labels of the data; the checkpoint has other names, {class_range(naming.names)}"
        return Fact(text, others, guessed=True)
    return Fact(text, "labels of the data" + (", names in the checkpoint" if named and not source.class_names else ""))


def _why(naming: Naming) -> str:
    return "the data has none" if naming.wanted else "no labels are wanted"


@dataclass(frozen=True)
class _Relabelled:
    """Loads from a source, with other labels; it can be sent to another process."""

    source: ImageSource
    labels: tuple[int, ...]

    def __call__(self, place: int) -> tuple[Image.Image, int]:
        image, label = self.source.load(place)
        return image, self.labels[label] if 0 <= label < len(self.labels) else label
