"""The verb `heads`: how alike the heads of each block are, and what the loss of each one costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.checkpoints.facts import plain_facts
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site
from prune_realloc.data.batches import Batch
from prune_realloc.families.host import adopted
from prune_realloc.pruning.head_maps import HeadProducts, cosines, head_sites, mean_and_largest
from prune_realloc.pruning.hooks import masked
from prune_realloc.recipe.document import Data, Source
from prune_realloc.results.evaluate import divergence, log_probabilities
from prune_realloc.results.opening import Reading, open_network, open_stream, with_shipped_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import count_classes, evaluation_mode


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Cosine similarities between the heads of a block."""

    matrix: tuple[tuple[float, ...], ...]
    mean: float
    """Off the diagonal."""
    largest: float
    """Off the diagonal."""


@dataclass(frozen=True, kw_only=True)
class BlockHeads:
    """One site of the axis `heads`."""

    site: str
    heads: int
    maps: Likeness | None
    """Of attention maps; None where the attention has none that can be watched."""
    outputs: Likeness | None
    """Of what the heads add to the stream; None where no layer reads them one by one."""
    removal: tuple[float, ...]
    """Loss without each head minus the loss of the whole network, nats per image; without labels the same as `kl`."""
    kl: tuple[float, ...]
    """KL(whole || without the head), nats per image."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What `heads` has found."""

    blocks: tuple[BlockHeads, ...]
    samples: int
    labelled: bool
    """Are the losses those of labels, not distances to the whole network?"""
    notes: tuple[str, ...]
    taken: Mapping[str, Mapping[str, Any]]


def heads(source: Source, *, data: Data, batch_size: int, workers: int = 0, device: str = "auto") -> Heads:
    """Watch and remove the heads of a classifier, on the images of `data`.

    Raises:
        InputError: the network or the images cannot be used, or no head can be told apart.
    """
    target = pick_device(device)
    net = adopted(open_network(source))
    data = with_shipped_images(data, source)
    if data.name is None:
        raise InputError("data is missing; name images with --data")
    if not count_classes(net):
        raise InputError("the model has no classifier, so there is no loss that a head could cost")
    sites = head_sites(net)
    if not sites:
        raise InputError("the model has no heads that could be told apart; see the axes that `analyze` lists")
    stream = open_stream(net, data, Reading(batch_size=batch_size, workers=workers), data.samples)
    with evaluation_mode(net, device=target), out_of_memory_named(batch_size):
        blocks, samples = measured_heads(net, sites, stream, labelled=stream.classes is not None)
    return Heads(
        blocks=blocks,
        samples=samples,
        labelled=stream.classes is not None,
        notes=(*_left_out(blocks), *stream.notes()),
        taken=plain_facts(net, stream.taken()),
    )


@torch.no_grad()
def measured_heads(
    net: nn.Module, sites: Sequence[Site], batches: Iterable[Batch], *, labelled: bool
) -> tuple[tuple[BlockHeads, ...], int]:
    """Each site's heads, and how many images there were.

    Args:
        net: a classifier in evaluation mode, on the device to be used.
        sites: of the axis `heads`.
        batches: of the network's images; all are used, once.
        labelled: the batches' labels are the network's classes.
    """
    products, device = HeadProducts(net, sites), next(net.parameters()).device
    lost: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    samples = 0
    for each in batches:
        batch = each.on(device)
        with products.watched():
            whole = log_probabilities(net, batch.images)
        samples += len(whole)
        for site in sites:
            for head in range(site.units):
                with masked(net, site, [head]):
                    without = log_probabilities(net, batch.images)
                lost[site.name, head].append(_losses(whole, without, batch, labelled))
    means = {key: torch.cat(parts, dim=1).mean(1).tolist() for key, parts in lost.items()}
    return tuple(_block(site, products, means) for site in sites), samples


def _losses(whole: Tensor, without: Tensor, batch: Batch, labelled: bool) -> Tensor:
    """What is lost on each image, and the KL, (2, B)."""
    kl = divergence(whole, without)
    if not labelled:
        return torch.stack([kl, kl])
    labels = batch.labels.to(whole.device)
    changed = (F.nll_loss(log_p, labels, reduction="none") for log_p in (without, whole))
    return torch.stack([next(changed) - next(changed), kl])


def _block(site: Site, products: HeadProducts, means: Mapping[tuple[str, int], list[float]]) -> BlockHeads:
    rows = [means[site.name, head] for head in range(site.units)]
    return BlockHeads(
        site=site.name,
        heads=site.units,
        maps=_likeness(products.maps.get(site.name)),
        outputs=_likeness(products.outputs.get(site.name)),
        removal=tuple(row[0] for row in rows),
        kl=tuple(row[1] for row in rows),
    )


def _likeness(products: np.ndarray | None) -> Likeness | None:
    if products is None:
        return None
    similarity = cosines(products)
    mean, largest = mean_and_largest(similarity)
    return Likeness(matrix=tuple(map(tuple, similarity.tolist())), mean=mean, largest=largest)


def _left_out(blocks: tuple[BlockHeads, ...]) -> list[str]:
    found = []
    for what, missing in (
        ("attention maps", [each.site for each in blocks if each.maps is None]),
        ("outputs", [each.site for each in blocks if each.outputs is None]),
    ):
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            found.append(f"{what} of {missing[0]}{more} could not be watched; only the rest was compared")
    return found
