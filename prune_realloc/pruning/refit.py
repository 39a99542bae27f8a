"""After a cut: closed-form refits of what is left.

In the order of the network, each layer that writes to the stream is regressed on what it now reads, in the network that
is already cut up to there, towards what the source adds to its stream plus a part of the error that has built up in it.
Ridge regression shrinks towards the weights that the cut left, so a direction that the data never shows keeps them; how
far, images decide that a fit has not seen (`ridge.py`).
What a layer before a batch norm is asked for goes through the scale of that norm, its mean into the running mean.
"""

# B images, N tokens, D stream channels, U units, H heads, K width of a head

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.core.structure import Branch, Crossing, Site
from prune_realloc.data.batches import Batch
from prune_realloc.families import family_of
from prune_realloc.families.base import Leading
from prune_realloc.families.host import find_host, inner_of
from prune_realloc.pruning.cut import Keep
from prune_realloc.pruning.fit import fit_
from prune_realloc.pruning.handed_on import handed_on
from prune_realloc.pruning.linear import Layer, input_weight, inputs, layer_at, positions, scale_undone
from prune_realloc.pruning.moments import Regression
from prune_realloc.pruning.ridge import Explained, Halves, explained
from prune_realloc.pruning.streams import Streams
from prune_realloc.pruning.task import Task, prepared, watched
from prune_realloc.pruning.tune import Stretch, Tuning, tune_

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
    tuning: Tuning | None = None,
) -> Explained | None:
    """Fit the layers of `model`, cut from `source` to the units of `keep`, one after the other, in place.

    The writers of all branches and crossings; where a stream itself became narrower also the layers that read it.

    Args:
        source: without LayerScale (`fold_scales_`), in the basis that was cut.
        weights: of each token position, shape (N,), by a writer's site and by a layer that reads a stream, as in
            `LayerMoments`; a reader without takes its writer's, a writer without takes equal ones.
        ridge: False shifts biases only (running means where there are none), so that each layer's mean output is what
            the source's is.
        tuning: what is done to each part of the network behind its refit.

    Returns:
        What the halves of the images say of the fits; None where no weights were fitted, or to a single image.

    Raises:
        InputError: the temporary folder cannot hold the streams of all images.
    """
    host = find_host(source)
    if not family_of(host.inner).describe(host.inner).branches:
        if tuning is not None:
            _tune_whole_(model, source, batches, tuning)
        return None  # the structure's notes say why
    task = prepared(inner_of(model), host.inner, sites, keep, weights, ridge, tuning)
    describe, first = task.family.describe, next(task.model.parameters())
    left = zip(*(describe(network).branches for network in (task.model, task.wide)), strict=True)
    names = list(task.streams)
    with Streams(first) as streams:
        for batch, held in _all_batches(batches, tuning):
            images = handed_on(host, batch.images.to(first))  # what is around was not cut: both see the same
            streams.append(*task.enter(names[0], images, images), held=held)
        for place, name in enumerate(names):
            _fit_stream_(task, streams, name, left)
            if place + 1 < len(names):
                _cross_(task, streams, name, names[place + 1])
        _fit_exits_(task, streams, names[-1], task.family.head_output)
        if tuning is not None:
            _tune_head_(task, streams, tuning)
    return explained(task.choices)


def _all_batches(batches: Iterable[Batch], tuning: Tuning | None) -> Iterator[tuple[Batch, bool]]:
    """Each batch, and whether it is held back."""
    yield from ((batch, False) for batch in batches)
    if tuning is not None:
        yield from ((batch, True) for batch in tuning.held)


def _tune_whole_(model: nn.Module, source: nn.Module, batches: Iterable[Batch], tuning: Tuning) -> None:
    """A network whose blocks are not known is one part."""
    first = next(model.parameters())
    with Streams(first) as streams:
        for batch, held in _all_batches(batches, tuning):
            images = batch.images.to(first)
            streams.append(source(images), images, held=held)
        tune_(model, Stretch("network", model, lambda x: x), streams, tuning)


def _tune_head_(task: Task, streams: Streams, tuning: Tuning) -> None:
    """What follows the last stream, towards the source's output."""
    for i, x, _ in streams:
        streams.replace(i, x=task.family.head_output(task.source, x))
    tune_(task.model, Stretch("head", partial(task.family.head_output, task.model), lambda x: x), streams, tuning)


def _lead_on_(task: Task, streams: Streams, part: _Part, weight: Tensor | None = None) -> None:
    """The model past a part of it behind which the source is already; the part is tuned where that is wanted.

    Args:
        weight: how much each token matters behind it, shape (N,), in the order of the stream.
    """
    if task.tuning is not None:
        last = partial(task.last, part.stream)
        stretch = Stretch(part.name, lambda y: last(part.run(y)), lambda x: task.rows(part.writer, last(x)), weight)
        tune_(task.model, stretch, streams, task.tuning)
    streams.lead_on(part.run)


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the model, from one state of a stream to the next."""

    name: str
    stream: str
    """Behind it."""
    writer: str
    """The layer of the source that writes that stream there."""
    run: Callable[[Tensor], Tensor]
    """What enters the part -> the stream behind it, as the family has it."""


def _added(task: Task, branch: Branch, mine: Branch) -> _Part:
    """A branch, and what the stream holds before it."""
    return _Part(branch.name, branch.stream, branch.writer, lambda y: y + task.output(task.model, mine, y))


def _fit_stream_(task: Task, streams: Streams, name: str, left: Iterator[tuple[Branch, Branch]]) -> None:
    """All branches of one stream, in order.

    Args:
        left: the branches of the model and of `wide`, from the first that is not fitted yet.
    """
    stood_in_for: set[str] = set()
    for branch in task.structure.branches:
        if branch.stream != name or branch.writer in stood_in_for:
            continue
        if branch.block in task.gone:
            _lead_past_(task, streams, branch, None)
            continue
        mine, theirs = next(left)
        if isinstance(task.family, Leading):
            for i, x, y in streams:
                streams.replace(i, task.led(task.source, branch, x), task.led(task.model, mine, y))
        if task.narrower(name):
            _fit_readers_(task, streams, branch, mine, theirs)
        if branch.fitted:
            lost = _lost_behind(task, streams, branch)
            _fit_writer_(task, streams, branch, mine, lost)
            stood_in_for |= {each.writer for each in lost}
        else:
            _lead_past_(task, streams, branch, mine)


def _lead_past_(task: Task, streams: Streams, branch: Branch, mine: Branch | None) -> None:
    """Both streams behind a branch that nothing is done to; None: the model has it no more."""
    for i, x, _ in streams:
        x = x if mine is not None else task.led(task.source, branch, x)
        streams.replace(i, x=x + task.output(task.source, branch, x))
    if mine is not None:
        _lead_on_(task, streams, _added(task, branch, mine))


def _cross_(task: Task, streams: Streams, at: str, to: str) -> None:
    """Lead both networks from one stream into the next; what lies between is fitted where it reads less."""
    _fit_exits_(task, streams, at, lambda model, x: task.family.stream_input(model, to, x))
    for crossing in (each for each in task.structure.crossings if each.stream == to):
        _fit_crossing_(task, streams, crossing)
    enter = task.family.stream_input
    for i, x, _ in streams:
        streams.replace(i, x=enter(task.source, to, x))
    writer = task.streams[to].slices[0].parameter.rpartition(".")[0]
    _lead_on_(task, streams, _Part(to, to, writer, partial(enter, task.model, to)))


def _fit_crossing_(task: Task, streams: Streams, crossing: Crossing) -> None:
    """A layer that writes the next stream, towards what the source's puts out: no error is in that stream yet."""
    layer, enter = layer_at(task.model, crossing.writer), task.family.stream_input
    regression = Halves()
    for x, y in map(streams.batch, streams.fitted()):
        target = watched(task.source, crossing.writer, "output", partial(enter, task.source, crossing.stream, x))
        given = watched(task.model, crossing.writer, "input", partial(enter, task.model, crossing.stream, y))
        target = task.rows(crossing.writer, positions(layer, target))
        regression.add(len(y), inputs(layer, given), target, task.weight(crossing))
    _fit_(task, layer, regression, task.norm(crossing.writer))


def _fit_readers_(task: Task, streams: Streams, branch: Branch, mine: Branch, theirs: Branch) -> None:
    """The layers of one branch that read a narrower stream, towards what the source's put out."""
    output, weight = task.output, task.weight(branch)
    for name, reader, goal in zip(branch.readers, mine.readers, theirs.readers, strict=True):
        layer, regression = layer_at(task.model, reader), Halves()
        for x, y in map(streams.batch, streams.fitted()):
            target = watched(task.wide, goal, "output", partial(output, task.wide, theirs, x))
            given = watched(task.model, reader, "input", partial(output, task.model, mine, y))
            own = task.weights.get(branch.readers[0])
            each = weight if own is None else input_weight(layer, own, given)
            regression.add(len(y), inputs(layer, given), task.rows(name, positions(layer, target)), each)
        _fit_(task, layer, regression, task.norm(reader))


def _lost_behind(task: Task, streams: Streams, branch: Branch) -> list[Branch]:
    """The branches of blocks that went which follow on `branch`; its writer stands in for them as far as it can.

    As far as nothing lies between them: that is left in the model.
    """
    behind = task.structure.branches[task.structure.branches.index(branch) + 1 :]
    lost = list(takewhile(lambda b: b.block in task.gone and b.stream == branch.stream, behind))
    if not lost or not isinstance(task.family, Leading):
        return lost
    _, x, _ = next(iter(streams))
    found: list[Branch] = []
    for before, each in zip([branch, *lost], lost, strict=False):
        x = x + task.output(task.source, before, x)
        led = task.led(task.source, each, x)
        if led.shape != x.shape or not torch.equal(led, x):
            break
        found.append(each)
    return found


def _fit_writer_(task: Task, streams: Streams, branch: Branch, mine: Branch, lost: Sequence[Branch]) -> None:
    """The layer of one branch that writes; the streams are led past the branch, and past what it stands in for."""
    output, weight = task.output, task.aligned_weight(branch)
    layer, norm = layer_at(task.model, mine.writer), task.norm(mine.writer)
    regression, lag = Halves(), Regression()
    for i, x, y in streams:
        own = after = x + output(task.source, branch, x)
        for each in lost:
            after = after + output(task.source, each, after)
        streams.replace(i, x=after)
        if i in streams.held:
            continue
        given = watched(task.model, mine.writer, "input", partial(output, task.model, mine, y))
        given = task.aligned(task.model, mine, inputs(layer, given))
        target, error = _asked_of_writer(task, branch, norm, _Passage(x, own, after, y))
        regression.add(len(y), given, target + CARRY * error, weight)
        lag.add(error, None, weight)
    _fit_(task, layer, regression, norm, (1 - CARRY) * lag.mean())
    _lead_on_(task, streams, _added(task, branch, mine), weight)


@dataclass(frozen=True, eq=False)
class _Passage:
    """A stream on its way past a branch, and blocks behind it that went, as the family has it."""

    before: Tensor
    own: Tensor
    """Behind the branch."""
    after: Tensor
    """Behind the blocks that went too."""
    mine: Tensor
    """In the model, before the branch."""


def _asked_of_writer(task: Task, branch: Branch, norm: _BatchNorm | None, stream: _Passage) -> tuple[Tensor, Tensor]:
    """What a writer of the model should put out, and what its stream lacks, both (B, .., D).

    Args:
        norm: behind the writer; what it should add to the stream is then told by what the source's writer puts out.
    """
    name = branch.stream
    run = partial(task.output, task.source, branch, stream.before)
    written = positions(layer_at(task.source, branch.writer), watched(task.source, branch.writer, "output", run))
    written = task.rows(branch.writer, task.aligned(task.source, branch, written))
    if branch.post_norm:  # what is behind the writer is in the way of a correction
        return written, torch.zeros_like(written)
    undone = 1.0 if norm is None else scale_undone(norm)
    before, lost = (task.rows(branch.writer, task.last(name, x)) for x in (stream.before, stream.after - stream.own))
    error, lost = (before - task.last(name, stream.mine)).flatten(1, -2), lost.flatten(1, -2)
    return written.reshape(error.shape) + undone * lost, undone * error


def _fit_exits_(
    task: Task,
    streams: Streams,
    at: str,
    run: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    """The layers that read the stream `at` after its last branch, where it became narrower.

    Args:
        run: what follows the stream in a network.
    """
    exits = [name for name, stream in task.structure.exits.items() if stream == at]
    for name in exits if task.narrower(at) else ():
        layer, regression = layer_at(task.model, name), Halves()
        for x, y in map(streams.batch, streams.fitted()):
            target = positions(layer, watched(task.wide, name, "output", partial(run, task.wide, x)))
            given = watched(task.model, name, "input", partial(run, task.model, y))
            regression.add(len(y), inputs(layer, given), task.rows(name, target), None)
        _fit_(task, layer, regression, task.norm(name))


def _fit_(task: Task, layer: Layer, moments: Halves, norm: _BatchNorm | None, shift: Tensor | float = 0.0) -> None:
    """One layer as `fit_` does, its ridge chosen by images that the fit has not seen."""
    choice = moments.choice(layer, norm) if task.ridge else None
    if choice is not None:
        task.choices.append(choice)
    fit_(layer, moments.whole(), None if choice is None else choice.ridge, shift, norm)
