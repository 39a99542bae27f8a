"""The verb `heads`: how alike the heads of each block are, and what the loss of each one costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.checkpoints.facts import plain_facts
from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import DEFAULT_KIND, unit_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site, site_place
from prune_realloc.data.batches import Batch
from prune_realloc.families.host import adopted
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.head_maps import HeadProducts, cosines, mean_and_largest
from prune_realloc.pruning.head_sites import TIED, head_sites
from prune_realloc.pruning.hooks import masked
from prune_realloc.recipe.document import Data, Source
from prune_realloc.recipe.reader import build_recipe
from prune_realloc.results.alike import BlockHeads, Heads, Likeness
from prune_realloc.results.evaluate import divergence, log_probabilities
from prune_realloc.results.opening import Reading, open_network, open_stream, with_shipped_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import count_classes, evaluation_mode
from prune_realloc.verbs.analyze import analyze

_SLACK = 0.004
"""Of the network's cost: what the planner's rounding needs; less than how far below its budget a plan may stay."""


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
    analysis = analyze(source, data=data, batch_size=batch_size, workers=workers, device=device)
    kept, refused = planned_heads(analysis)
    tied = [site for site in sites if site.note == TIED]
    return Heads(
        blocks=tuple(replace(block, kept=kept.get(block.site)) for block in blocks),
        samples=samples,
        labelled=stream.classes is not None,
        notes=(*_left_out(blocks), *refused, *planned_channels(analysis, tied), *stream.notes()),
        taken=plain_facts(net, stream.taken()),
        recipe=analysis.as_recipe(),
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


def planned_heads(analysis: Analysis) -> tuple[dict[str, int], tuple[str, ...]]:
    """Site -> how many heads the planner keeps where half of what all heads cost must go, or a note why it cannot."""
    return _planned_half(analysis, "heads")


def planned_channels(analysis: Analysis, tied: Sequence[Site]) -> tuple[str, ...]:
    """What the planner keeps of each head where heads are no axis, since their channels are tied."""
    if not tied:
        return ()
    kept, refused = _planned_half(analysis, "v")
    blocks = {site.block for site in tied}
    parts = [
        f"{name} {width} of {analysis.widths[name]}" for name, width in kept.items() if site_place(name)[1] in blocks
    ]
    said = (f"{', '.join(parts)} where half of what they cost must go",) if parts else refused
    return tuple(f"{TIED}; the planner keeps {each}" if parts else each for each in said)


def _planned_half(analysis: Analysis, axis: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Site of an axis -> its width where half of what they all cost must go, or a note why nothing is decided."""
    sites = [name for name, width in analysis.widths.items() if site_place(name)[0] == axis and width > 1]
    if not sites:
        return {}, ()
    each = {name: unit_cost(analysis.terms, analysis.widths, name, DEFAULT_KIND) for name in sites}
    whole, least = analysis.cost().of(DEFAULT_KIND), min(each.values())
    half = sum(analysis.widths[name] * cost for name, cost in each.items()) / 2
    limit = whole - half // least * least + _SLACK * whole  # a unit is not cut in two
    recipe = build_recipe({"axes": [axis], "budget": {DEFAULT_KIND: round(limit)}})
    try:
        decided = plan(analysis, recipe).sites
    except InputError as error:
        return {}, (f"the planner decides on no {axis}: {error}",)
    return {name: decided[name].width for name in sites}, ()


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
