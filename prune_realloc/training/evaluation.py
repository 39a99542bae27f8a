"""A network on the validation images, which all processes share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from prune_realloc.data.batches import Batch, iterate
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.data.stream import check_labels
from prune_realloc.results.evaluate import measure
from prune_realloc.runtime.distributed import broadcast_, place, summed
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a network makes of the validation images."""

    top1: float
    """Share of the images that it gets right."""
    loss: float
    """Cross-entropy with the labels, nats per image."""
    images: int
    """Images that could be read."""


def validate(setup: Setup, net: nn.Module, prepare: Preprocessing) -> Validation:
    """Evaluate `net`, which may be the trained network or its teacher.

    Raises:
        NotFinite: its predictions are not finite.
        InputError: a label is none of its classes.
    """
    broadcast_(net.buffers())  # batch norms of each process have seen other images
    found = measure(net, _batches(setup, net, prepare), labelled=True)
    mine = [(found.top1 or 0.0) * found.samples, (found.loss or 0.0) * found.samples, float(found.samples)]
    right, loss, count = summed(torch.tensor(mine, dtype=torch.float64)).tolist()
    return Validation(top1=right / count, loss=loss / count, images=int(count))


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
        check_labels(batch.labels, count_classes(net), source.name, "give a part that has labels of its classes")
        yield batch
