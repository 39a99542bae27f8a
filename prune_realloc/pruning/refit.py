"""After a cut: closed-form refits of what is left.

In the order of the network, each layer that writes to the stream is regressed on what it now reads, in the network that
is already cut up to there, towards what the source adds to its stream plus a part of the error that has built up in it.
Ridge regression shrinks towards the weights that the cut left, so a direction that the data never shows keeps them.
"""

# B images, N tokens, D stream channels, U units, H heads, K width of a head

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Site
from prune_realloc.data.batches import Batch
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.elimination import RIDGE, ridged
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.moments import Regression
from prune_realloc.pruning.streams import Streams

CARRY = 0.5
"""Part of the error in the stream that the next writer is asked to undo (its mean is undone wholly)."""


def refit_(
    model: nn.Module,
    source: nn.Module,
    sites: Sequence[Site],
    keep: Keep,
    weights: Mapping[str, Tensor],
    batches: Iterable[Batch],
    *,
    ridge: bool,
) -> None:
    """Fit the layers of `model`, cut from `source` to the units of `keep`, one after the other, in place.

    The writers of all branches; where the stream itself became narrower also the layers that read it.

    Args:
        source: without LayerScale (`fold_`), in the basis that was cut.
        weights: of each token position, shape (N,), by a writer's site and by a layer that reads the stream, as in
            `LayerMoments`; a reader without takes its writer's, a writer without takes equal ones.
        ridge: False shifts biases only, so that each layer's mean output is what the source's is.

    Raises:
        InputError: the temporary folder cannot hold the streams of all images.
    """
    family = family_of(source)
    structure = family.describe(source)
    gone = {site.block for site in sites if site.axis == "block" and not len(keep.get(site.name, [0]))}
    whole = sites[0].units
    channels = torch.as_tensor(keep.get(sites[0].name, np.arange(whole)))
    narrower = len(channels) < whole
    # what the layers that read the stream should put out: the source's, at the units that are left
    wide = (
        cut(source, sites, {name: units for name, units in keep.items() if name != sites[0].name})
        if narrower
        else model
    )
    first = next(model.parameters())
    share = RIDGE if ridge else None
    added = family.added
    with torch.no_grad(), Streams(first) as streams:
        for batch in batches:
            images = batch.images.to(first)
            streams.append(family.stream(source, images), family.stream(model, images))
        left = [branch for branch in structure.branches if branch.block not in gone]
        for branch in structure.branches[: structure.branches.index(left[0])]:
            for i, x, y in streams:
                streams.replace(i, x + added(source, branch, x), y)
        for branch, mine, theirs in zip(left, *(family.describe(m).branches for m in (model, wide)), strict=True):
            weight = weights.get(branch.site)
            for reader, goal in zip(mine.readers, theirs.readers, strict=True) if narrower else ():
                regression = Regression()
                for _, x, y in streams:
                    target, _ = _captured(wide, goal, "output", partial(added, wide, theirs, x))
                    given, _ = _captured(model, reader, "input", partial(added, model, mine, y))
                    regression.add(given, target, weights.get(branch.readers[0], weight))
                fit_(model.get_submodule(reader), regression, share)
            # the writer before a block that went stands in for it as far as it can
            behind = takewhile(lambda b: b.block in gone, structure.branches[structure.branches.index(branch) + 1 :])
            regression, lag = Regression(), Regression()
            covered = [branch, *behind]
            for i, x, y in streams:
                after = x
                for each in covered:
                    after = after + added(source, each, after)
                given, _ = _captured(model, mine.writer, "input", partial(added, model, mine, y))
                if branch.post_norm:  # the norm behind the writer is in the way of a correction
                    written, _ = _captured(source, branch.writer, "output", partial(added, source, branch, x))
                    target, error = written[..., channels], torch.zeros_like(y)
                else:
                    target, error = (after - x)[..., channels], x[..., channels] - y
                regression.add(given, target + CARRY * error, weight)
                lag.add(error, None, weight)
                streams.replace(i, after, y)
            fit_(model.get_submodule(mine.writer), regression, share, shift=(1 - CARRY) * lag.mean())
            for i, x, y in streams:
                streams.replace(i, x, y + added(model, mine, y))
        for name in structure.exits if narrower else ():
            regression = Regression()
            for _, x, y in streams:
                target, _ = _captured(source, name, "output", partial(family.leave, source, x))
                given, _ = _captured(model, name, "input", partial(family.leave, model, y))
                regression.add(given, target, None)
            # one row per image where the tokens are pooled: the fewer rows, the nearer to the weights at hand
            fit_(model.get_submodule(name), regression, max(RIDGE, whole / float(regression.count)) if ridge else None)


def fit_(layer: Any, moments: Regression, ridge: float | None, shift: Tensor | float = 0.0) -> None:
    """Set a linear layer's weights and bias so that they map `moments.x` to `moments.t`, plus `shift`.

    Args:
        ridge: share of the inputs' mean variance by which a departure from the present weights is punished; None
            leaves the weights alone and sets the bias.
    """
    weight, count = layer.weight.double(), moments.count
    centre = layer.bias is not None
    x, t = (total / count if centre else torch.zeros_like(total) for total in (moments.x, moments.t))
    if ridge is not None:
        xx, tx = moments.xx / count - torch.outer(x, x), moments.tx / count - torch.outer(t, x)
        weight = weight + torch.linalg.solve(ridged(xx, x, ridge), (tx - weight @ xx).T).T
        layer.weight.copy_(weight)
    if centre:
        layer.bias.copy_(t + shift - weight @ x)


def _captured(model: nn.Module, name: str, side: str, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a module takes in or puts out while `run` computes its result, and that result."""
    seen: list[Tensor] = []
    with hooked(model, [(name, side, seen.append)]):
        result = run()
    return seen[0], result
