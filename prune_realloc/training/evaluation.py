"""A network on the validation images, which all processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from prune_realloc.core.errors import NotFinite
from prune_realloc.data.batches import Batch, iterate
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.data.stream import check_labels
from prune_realloc.results.evaluate import measure
from prune_realloc.runtime.distributed import broadcast_, place, summed
from prune_realloc.runtime.networks import count_classes, evaluation_mode
from prune_realloc.training.features import features, relative_errors
from prune_realloc.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a network makes of the validation images."""

    score: float
    """By the run's measure: share of the images that it gets right, or on which it agrees with the teacher, or the mean
    cosine between its pooled features and the teacher's."""
    loss: float
    """Cross-entropy with the labels, or KL to the teacher, nats per image; or the features' relative squared error."""
    images: int
    """Images that could be read."""


def validate(setup: Setup, net: nn.Module, prepare: Preprocessing) -> Validation:
    """Evaluate `net`, which may be the trained network or, with labels, its teacher.

    Raises:
        NotFinite: its predictions are not finite.
        InputError: a label is none of its classes.
    """
    broadcast_(net.buffers())  # batch norms of each process have seen other images
    score, loss, images = _BY_MEASURE[setup.measure](setup, net, _batches(setup, net, prepare))
    sums = summed(torch.tensor([score * images, loss * images, float(images)], dtype=torch.float64)).tolist()
    return Validation(score=sums[0] / sums[2], loss=sums[1] / sums[2], images=int(sums[2]))


Means = tuple[float, float, int]
"""Score and loss, means over so many images."""


def _by_labels(setup: Setup, net: nn.Module, batches: Iterable[Batch]) -> Means:
    found = measure(net, batches, labelled=True)
    return found.top1 or 0.0, found.loss or 0.0, found.samples


def _by_predictions(setup: Setup, net: nn.Module, batches: Iterable[Batch]) -> Means:
    assert setup.predictions is not None
    found = measure(net, batches, labelled=False, source=setup.predictions)
    return found.agreement or 0.0, found.kl or 0.0, found.samples


def _by_features(setup: Setup, net: nn.Module, batches: Iterable[Batch]) -> Means:
    assert setup.teacher is not None
    device, score, loss, images = setup.accelerator.device, 0.0, 0.0, 0
    with evaluation_mode(net), torch.inference_mode():
        for batch in batches:
            given = batch.images.to(device)
            mine, theirs = features(net, given), setup.teacher.features(given)
            if not mine.pooled.isfinite().all():
                raise NotFinite("the model's features are not finite: its activations overflow on these images")
            score += float(F.cosine_similarity(mine.pooled, theirs.pooled).double().sum())
            loss += float(relative_errors(mine, theirs).double().sum())
            images += len(given)
    return (score / images, loss / images, images) if images else (0.0, 0.0, 0)


_BY_MEASURE: dict[str, Callable[[Setup, nn.Module, Iterable[Batch]], Means]] = {
    "top1": _by_labels,
    "agreement": _by_predictions,
    "cosine": _by_features,
}


def _batches(setup: Setup, net: nn.Module, prepare: Preprocessing) -> Iterator[Batch]:
    """This process's share of the validation images."""
    source = setup.images.validation
    for batch in iterate(
        source,
        prepare,
        samples=source.count,
        batch_size=min(256, setup.at_once),
        seed=0,
        workers=setup.config.workers,
        part=place(),
    ):
        if setup.images.labelled:
            check_labels(batch.labels, count_classes(net), source.name, "give a part that has labels of its classes")
        yield batch
