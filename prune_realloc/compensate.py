"""Before a cut: changes of basis that leave the function as it is. After it: closed-form refits of what is left.

Rotation. Q and K of a head matter only through Q K', V and proj only through their product, so each pair can be put
into another basis. With S the second moment of the activations and O that of the loss gradient at them, the basis in
which both are diagonal sorts the units by what they carry (balanced truncation, Moore, IEEE TAC 1981).

Refit. In the order of the network, each layer that writes to the stream is regressed on what it now reads, in the
network that is already cut up to there, towards what the source adds to its stream plus a part of the error that has
built up in it. Ridge regression shrinks towards the weights that the cut left, so a direction that the data never shows
keeps them.
"""

# B images, N tokens, D stream channels, U units, H heads, K width of a head

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.damage import RIDGE, ridged
from prune_realloc.data import Batch
from prune_realloc.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.moments import LayerMoments, LinearMoments, LogitMoments, Regression, hooked
from prune_realloc.structure import Pair, Site, Slice, Structure
from prune_realloc.surgery import Keep, cut

CARRY = 0.5
"""Part of the error in the stream that the next writer is asked to undo (its mean is undone wholly)."""
_BASIS_RIDGE = 1e-4
"""Keeps the change of basis well-conditioned; any value leaves the function as it is."""


# -- rotation -------------------------------------------------------------------------------------------------


def rotated(model: nn.Module, structure: Structure, moments: LayerMoments) -> tuple[nn.Module, LayerMoments]:
    """A copy of `model` with the same function, each pair in the basis that sorts its units, and its moments."""
    turned = copy.deepcopy(model)
    writers, logits = dict(moments.writers), dict(moments.logits)
    with torch.no_grad():
        for pair in structure.pairs:
            if pair.site in logits:
                left, right = _logit_basis(logits[pair.site])
                left, right = _evened(turned, pair, left, right)
                logits[pair.site] = _turned_logits(logits[pair.site], left, right)
            else:
                left, right = _value_basis(turned, pair, writers[pair.site])
                writers[pair.site] = _turned_units(writers[pair.site], left)
            for part in pair.left:
                _apply_(turned, part, left)
            for part in pair.right:
                _apply_(turned, part, right)
    return turned, LayerMoments(writers, moments.readers, logits)


def _logit_basis(moments: LogitMoments) -> tuple[Tensor, Tensor]:
    """A for q and A^-T for k, each (H, K, K)."""
    bases = [
        _balance(ridged(activation, torch.zeros_like(activation[0]), _BASIS_RIDGE), gradient)
        for activation, gradient in zip(moments.activation, moments.gradient, strict=True)
    ]
    return torch.stack([inverse for _, inverse in bases]), torch.stack([basis.T for basis, _ in bases])


def _value_basis(model: nn.Module, pair: Pair, moments: LinearMoments) -> tuple[Tensor, Tensor]:
    """An orthogonal A (H, K, K), twice: proj is refitted, so of a basis only the nested spans of its rows matter."""
    [reader] = pair.right
    columns = model.get_parameter(reader.parameter).detach().double()
    found = []
    for rows in reader.index[:, 0].reshape(pair.groups, -1):
        index = torch.as_tensor(rows, device=columns.device)
        observed = columns[:, index].T @ moments.gradient @ columns[:, index]
        _, inverse = _balance(ridged(moments.covariance[index][:, index], moments.mean[index], _BASIS_RIDGE), observed)
        found.append(torch.linalg.qr(inverse.T).Q.T)
    both = torch.stack(found)
    return both, both


def _balance(S: Tensor, O: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741 (the field's letter)
    """T and T^-1 (K, K) such that T^-1 S T^-T = 1 and T' O T is diagonal, largest first."""
    lower = torch.linalg.cholesky(S)
    vectors = torch.linalg.eigh(lower.T @ O @ lower).eigenvectors.flip(1)
    return lower @ vectors, torch.linalg.solve_triangular(lower.T, vectors, upper=True).T


def _evened(model: nn.Module, pair: Pair, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each unit so that its rows in q and k are of one size: the product stays, the numbers are tame."""
    sizes = []
    for parts, matrix in ((pair.left, left), (pair.right, right)):
        weight = model.get_parameter(parts[0].parameter).detach().double()
        rows = weight[torch.as_tensor(parts[0].index[:, 0], device=weight.device)].unflatten(0, matrix.shape[:2])
        sizes.append((matrix @ rows).norm(dim=2).clamp(min=torch.finfo(torch.float32).tiny))
    scale = (sizes[1] / sizes[0]).sqrt()[..., None]
    return left * scale, right / scale


def _apply_(model: nn.Module, part: Slice, matrix: Tensor) -> None:
    parameter = model.get_parameter(part.parameter)
    moved = parameter.data.movedim(part.dim, 0)
    index = torch.as_tensor(part.index[:, 0], device=parameter.device)
    units = moved[index].double()
    mixed = matrix @ units.reshape(*matrix.shape[:2], -1)
    moved[index] = mixed.reshape(units.shape).to(moved.dtype)


def _turned_logits(moments: LogitMoments, left: Tensor, right: Tensor) -> LogitMoments:
    return LogitMoments(moments.tokens, left @ moments.activation @ left.mT, right @ moments.gradient @ right.mT)


def _turned_units(moments: LinearMoments, turn: Tensor) -> LinearMoments:
    whole = torch.block_diag(*turn)
    return LinearMoments(
        moments.tokens, moments.weight, moments.gradient, whole @ moments.mean, whole @ moments.covariance @ whole.T
    )


# -- refit ----------------------------------------------------------------------------------------------------


def refit_(
    model: nn.Module, source: nn.Module, sites: Sequence[Site], keep: Keep, weights: Mapping[str, Tensor],
    batches: Iterable[Batch], *, ridge: bool,
) -> None:  # fmt: skip
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
    with torch.no_grad(), _Streams(first) as streams:
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


class _Streams:
    """The residual streams of the source (x) and of the cut network (y), batch by batch.

    Between two layers they lie in a temporary file, so memory holds one batch however many images there are.
    """

    def __init__(self, like: Tensor) -> None:
        self.device, self.dtype = like.device, like.dtype
        with _folder_named():
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.places: list[tuple[int, torch.Size, torch.Size]] = []

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full folder could not take is not needed any more
            self.file.close()

    def append(self, x: Tensor, y: Tensor) -> None:
        self.places.append((self.file.seek(0, 2), x.shape, y.shape))
        self.replace(len(self.places) - 1, x, y)

    def replace(self, i: int, x: Tensor, y: Tensor) -> None:
        with _folder_named():
            self.file.seek(self.places[i][0])
            for part in (x, y):
                self.file.write(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
            self.file.flush()

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        for i, (offset, *shapes) in enumerate(self.places):
            self.file.seek(offset)
            data = [bytearray(self.file.read(self.dtype.itemsize * shape.numel())) for shape in shapes]
            x, y = (torch.frombuffer(d, dtype=self.dtype).to(self.device).reshape(s)
                    for d, s in zip(data, shapes, strict=True))  # fmt: skip
            yield i, x, y


@contextmanager
def _folder_named() -> Iterator[None]:
    """Turns the errors of a full temporary folder into an InputError that names the variable."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"temporary folder {tempfile.tempdir!r} cannot hold the activations of all images ({error.strerror}); "
            "set TMPDIR to a larger one, or lower --samples"
        ) from error
