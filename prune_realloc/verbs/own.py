"""What a caller brings from Python: batches, a loss and a measure of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_realloc.checkpoints.facts import plain_facts
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.names import PREPROCESSING, Progress
from prune_realloc.core.taken import fact_name
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import Inputs, OwnBatches, labels_of
from prune_realloc.families import family_of
from prune_realloc.families.host import Host, find_host
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.handed_on import check_handed_on
from prune_realloc.pruning.objectives import Loss, is_classifier
from prune_realloc.recipe.document import Data
from prune_realloc.results.opening import Reading, open_stream, require_images
from prune_realloc.runtime.networks import class_logits, count_classes, evaluation_mode

Score = Callable[[nn.Module], float]
"""A network -> how good it is; larger is better."""
_OF_FILES = ("name", "split", "data_dir", "class_map", "class_order", "preprocess")
_PREPARED = {fact_name(field) for field in PREPROCESSING}
"""Facts that hold for images of files only: the caller's come prepared."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Nothing of it need be given."""

    batches: Iterable[Any] | None = None
    """A loader or a list of batches; instead of images from files."""
    inputs: Inputs | None = None
    """A batch -> its images; where a batch is not the images, nor a tuple that begins with them."""
    loss: Loss | None = None
    """What gradients are taken of: (output, batch) -> one value for each image."""
    score: Score | None = None
    """What is reported of source and result, and decides between candidates."""
    reads_logits: bool
    """A classifier's output will be read, not handed to `loss` alone."""

    def check(self, data: Data) -> None:
        """Raises InputError where parts do not fit each other, or the images of files."""
        for name, value in (("loss", self.loss), ("inputs", self.inputs), ("score", self.score)):
            if value is not None and not callable(value):
                raise InputError(f"{name} must be a function, got a {type(value).__name__}")
        if self.batches is None:
            for name, value in (("loss", self.loss), ("inputs", self.inputs)):
                if value is not None:
                    raise InputError(f"{name} is for batches of your own; give batches= too, or leave it out")
            return
        for name in _OF_FILES:
            if getattr(data, name) != Data.model_fields[name].default:
                raise InputError(f"data.{name} is for images of files, and batches are given; leave one of them out")


def open_batches(net: nn.Module, own: Own, data: Data, progress: Progress | None) -> OwnBatches:
    """The caller's batches for `net`, of which the first was looked at.

    Raises:
        InputError: they are no batches of images for this network.
    """
    assert own.batches is not None
    host, first = find_host(net), next(net.parameters())
    images = OwnBatches(
        own.batches,
        inputs=own.inputs,
        samples=data.samples if "samples" in data.model_fields_set else None,
        dtype=first.dtype,
        progress=progress,
    )
    _check_goes_through(host, images.first.images.to(first), own.reads_logits)
    labels = labels_of(images.first.given, len(images.first.images))
    if own.loss is None and data.labels and is_classifier(net) and labels is not None:
        images.classes = count_classes(net)
    images.remarks += _remarks(net, images, own)
    return images


def open_calibration(net: nn.Module, own: Own, data: Data, reading: Reading, scorer: str) -> Calibration | None:
    """The images that a network is scored and refitted on; None where none are named and the scorer looks at none.

    Raises:
        InputError: they cannot be opened, or are not for this network.
    """
    if own.batches is not None:
        return open_batches(net, own, data, reading.progress)
    require_images(data, scorer)
    if data.name is None:
        return None
    _require_alone(net)
    return open_stream(net, data, reading, data.samples)


def _require_alone(net: nn.Module) -> None:
    """Raises InputError where a network of the caller's own would be run on images of files."""
    host = find_host(net)
    if not host.stands_alone:
        raise InputError(f"model {host}: nothing tells how images are prepared for it; give batches= of your own")


def plain_taken_of(net: nn.Module, images: Calibration | None) -> dict[str, dict[str, Any]]:
    """What a run went by, ready for JSON."""
    found = plain_facts(net, None if images is None else images.taken())
    if not isinstance(images, OwnBatches):
        return found
    return {name: fact for name, fact in found.items() if name not in _PREPARED}


def _remarks(net: nn.Module, images: OwnBatches, own: Own) -> list[str]:
    """What follows from network and batches together."""
    notes, host = [], find_host(net)
    if is_classifier(net) and own.loss is None and images.classes is None:
        notes.append("the batches' labels were not used: the model's own prediction stands in for them")
    if host.stands_alone and images.shape != input_shape(net):
        notes.append(
            f"the images are {images.shape}; multiply-adds are counted at the network's own size, {input_shape(net)}"
        )
    return notes


def _check_goes_through(host: Host, images: torch.Tensor, reads_logits: bool) -> None:
    """Does the network take these images, and hand them on where it only holds the one that is cut?

    Args:
        reads_logits: as in `Own`.

    Raises:
        InputError: it does not, or puts out no logits.
    """
    net = host.network
    if not host.stands_alone:
        if family_of(host.inner).describe(host.inner).branches:
            with evaluation_mode(net):
                check_handed_on(host, images)
        return
    try:
        with evaluation_mode(net), torch.no_grad():
            out = net(images[:1])
    except (AssertionError, RuntimeError) as error:  # what timm and torch raise for images of another shape
        raise InputError(
            f"batches: images of shape {tuple(images.shape[1:])} do not go through the model ({first_line(error)}); it "
            f"takes {input_shape(net)}"
        ) from error
    if reads_logits and is_classifier(net):
        class_logits(out)
