"""After a cut: closed-form refits of what is left.

In the order of the network, each layer that writes to the stream is regressed on what it now reads, in the network that
is already cut up to there, towards what the source adds to its stream plus a part of the error that has built up in it.
Ridge regression shrinks towards the weights that the cut left, so a direction that the data never shows keeps them.
"""

# B images, N tokens, D stream channels, U units, H heads, K width of a head

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Side, Site, Structure
from prune_realloc.data.batches import Batch
from prune_realloc.families import cuttable_family_of
from prune_realloc.families.base import CuttableFamily, Reordering
from prune_realloc.families.host import find_host, inner_of
from prune_realloc.pruning.cut import Keep, blocks_that_go, cut
from prune_realloc.pruning.elimination import RIDGE, ridged
from prune_realloc.pruning.handed_on import handed_on
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.moments import Regression
from prune_realloc.pruning.sites import stream_sites
from prune_realloc.pruning.streams import Streams

CARRY = 0.5
"""Part of the error in the stream that the next writer is asked to undo (its mean is undone wholly)."""


@torch.no_grad()
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

    The writers of all branches; where a stream itself became narrower also the layers that read it.

    Args:
        source: without LayerScale (`fold_scales_`), in the basis that was cut.
        weights: of each token position, shape (N,), by a writer's site and by a layer that reads a stream, as in
            `LayerMoments`; a reader without takes its writer's, a writer without takes equal ones.
        ridge: False shifts biases only, so that each layer's mean output is what the source's is.

    Raises:
        InputError: the temporary folder cannot hold the streams of all images.
    """
    host = find_host(source)
    task = _prepared(inner_of(model), host.inner, sites, keep, weights, RIDGE if ridge else None)
    describe, first = task.family.describe, next(task.model.parameters())
    left = zip(*(describe(network).branches for network in (task.model, task.wide)), strict=True)
    names = list(task.channels)
    with Streams(first) as streams:
        for batch in batches:
            images = handed_on(host, batch.images.to(first))  # what is around was not cut: both see the same
            streams.append(*task.enter(names[0], images, images))
        for place, name in enumerate(names):
            _fit_stream_(task, streams, name, left)
            if place + 1 < len(names):
                _cross_(task, streams, name, names[place + 1])
        _fit_exits_(task, streams, names[-1], task.family.head_output)


@dataclass(frozen=True)
class _Task:
    """What all steps of a refit read."""

    model: nn.Module
    source: nn.Module
    wide: nn.Module
    """The source cut like `model`, but for its streams: its readers put out what the model's should."""
    family: CuttableFamily
    structure: Structure
    """That of the source."""
    gone: set[int]
    """Blocks that the model has not."""
    channels: Mapping[str, Tensor]
    """Site of a stream -> those of its channels that are left; in the order in which the streams are computed."""
    widths: Mapping[str, int]
    """Site of a stream -> its channels in the source."""
    weights: Mapping[str, Tensor]
    ridge: float | None
    """Share of the inputs' mean variance, as `fit_` takes it."""

    def narrower(self, stream: str) -> bool:
        return len(self.channels[stream]) < self.widths[stream]

    def aligned(self, model: nn.Module, branch: Branch, seen: Tensor) -> Tensor:
        """What a layer of `branch` saw in `model`, in the order of the tokens of the stream."""
        return self.family.in_stream_order(model, branch, seen) if isinstance(self.family, Reordering) else seen

    def aligned_weight(self, branch: Branch) -> Tensor | None:
        """How much each token matters at the writer of `branch`, in the order of the stream."""
        weight = self.weights.get(branch.site)
        return None if weight is None else self.aligned(self.source, branch, weight[None, :, None]).flatten()

    def enter(self, stream: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What enters `stream` in the source and in the model."""
        return self.family.stream_input(self.source, stream, x), self.family.stream_input(self.model, stream, y)


def _prepared(
    model: nn.Module,
    source: nn.Module,
    sites: Sequence[Site],
    keep: Keep,
    weights: Mapping[str, Tensor],
    ridge: float | None,
) -> _Task:
    streams = stream_sites(sites)
    channels = {name: torch.as_tensor(keep.get(name, np.arange(site.units))) for name, site in streams.items()}
    inside = {name: units for name, units in keep.items() if name not in streams}
    narrower = any(len(channels[name]) < site.units for name, site in streams.items())
    return _Task(
        model=model,
        source=source,
        wide=cut(source, sites, inside) if narrower else model,
        family=cuttable_family_of(source),
        structure=cuttable_family_of(source).describe(source),
        gone=blocks_that_go(sites, keep),
        channels=channels,
        widths={name: site.units for name, site in streams.items()},
        weights=weights,
        ridge=ridge,
    )


def _fit_stream_(task: _Task, streams: Streams, name: str, left: Iterator[tuple[Branch, Branch]]) -> None:
    """All branches of one stream, in order.

    Args:
        left: the branches of the model and of `wide`, from the first that is not fitted yet.
    """
    stood_in_for = False
    for branch in task.structure.branches:
        if branch.stream != name:
            continue
        if branch.block not in task.gone:
            mine, theirs = next(left)
            if task.narrower(name):
                _fit_readers_(task, streams, branch, mine, theirs)
            _fit_writer_(task, streams, branch, mine)
            stood_in_for = True  # the blocks behind it that went: their branches are in x already
        elif not stood_in_for:
            for i, x, y in streams:
                streams.replace(i, x + task.family.branch_output(task.source, branch, x), y)


def _cross_(task: _Task, streams: Streams, at: str, to: str) -> None:
    """Lead both networks from one stream into the next; what lies between is fitted where it reads less."""
    _fit_exits_(task, streams, at, lambda model, x: task.family.stream_input(model, to, x), task.channels[to])
    for i, x, y in streams:
        streams.replace(i, *task.enter(to, x, y))


def _fit_readers_(task: _Task, streams: Streams, branch: Branch, mine: Branch, theirs: Branch) -> None:
    """The layers of one branch that read a narrower stream, towards what the source's put out."""
    output, weight = task.family.branch_output, task.weights.get(branch.site)
    for reader, goal in zip(mine.readers, theirs.readers, strict=True):
        regression = Regression()
        for _, x, y in streams:
            target = _watched(task.wide, goal, "output", partial(output, task.wide, theirs, x))
            given = _watched(task.model, reader, "input", partial(output, task.model, mine, y))
            regression.add(given, target, task.weights.get(branch.readers[0], weight))
        fit_(_linear(task.model, reader), regression, task.ridge)


def _fit_writer_(task: _Task, streams: Streams, branch: Branch, mine: Branch) -> None:
    """The layer of one branch that writes; the streams are led past the branch, and past blocks behind it that went.

    The writer before a block that went stands in for it as far as it can.
    """
    output, weight, channels = task.family.branch_output, task.aligned_weight(branch), task.channels[branch.stream]
    behind = task.structure.branches[task.structure.branches.index(branch) + 1 :]
    lost = takewhile(lambda b: b.block in task.gone and b.stream == branch.stream, behind)
    covered = [branch, *lost]
    regression, lag = Regression(), Regression()
    for i, x, y in streams:
        after = x
        for each in covered:
            after = after + output(task.source, each, after)
        given = _watched(task.model, mine.writer, "input", partial(output, task.model, mine, y))
        given = task.aligned(task.model, mine, given)
        if branch.post_norm:  # the norm behind the writer is in the way of a correction
            written = _watched(task.source, branch.writer, "output", partial(output, task.source, branch, x))
            written = task.aligned(task.source, branch, written)
            target, error = written[..., channels], torch.zeros_like(y)
        else:
            target, error = (after - x)[..., channels], x[..., channels] - y
        regression.add(given, target + CARRY * error, weight)
        lag.add(error, None, weight)
        streams.replace(i, after, y)
    fit_(_linear(task.model, mine.writer), regression, task.ridge, shift=(1 - CARRY) * lag.mean())
    for i, x, y in streams:
        streams.replace(i, x, y + output(task.model, mine, y))


def _fit_exits_(
    task: _Task,
    streams: Streams,
    at: str,
    run: Callable[[nn.Module, Tensor], Tensor],
    channels: Tensor | None = None,
) -> None:
    """The layers that read the stream `at` after its last branch, where it became narrower.

    Args:
        run: what follows the stream in a network.
        channels: of the layers' outputs that are left; None for all.
    """
    exits = [name for name, stream in task.structure.exits.items() if stream == at]
    for name in exits if task.narrower(at) else ():
        regression = Regression()
        for _, x, y in streams:
            target = _watched(task.source, name, "output", partial(run, task.source, x))
            given = _watched(task.model, name, "input", partial(run, task.model, y))
            regression.add(given, target if channels is None else target[..., channels], None)
        # one row per image where the tokens are pooled: the fewer rows, the nearer to the weights at hand
        ridge = None if task.ridge is None else max(task.ridge, task.widths[at] / float(regression.count))
        fit_(_linear(task.model, name), regression, ridge)


def fit_(layer: nn.Linear, moments: Regression, ridge: float | None, shift: Tensor | float = 0.0) -> None:
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


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear), name
    return layer


def _watched(model: nn.Module, name: str, side: Side, run: Callable[[], Tensor]) -> Tensor:
    """What a module takes in or puts out while `run` runs."""
    seen: list[Tensor] = []
    with hooked(model, [(name, side, seen.append)]):
        run()
    return seen[0]
