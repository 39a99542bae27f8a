"""Second moments of activations and of loss gradients, layer by layer: what rotation, damage and refit read.

Everything is summed in float64 while the batches stream by; no activation outlives its batch.
"""

# B images, N tokens, D stream channels, U units that a writer reads, H heads, K q/k width of a head

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site, Structure
from prune_realloc.data.batches import Batch
from prune_realloc.families.host import inner_of
from prune_realloc.pruning.hooks import Place, hooked
from prune_realloc.pruning.linear import inputs, layer_at, positions
from prune_realloc.runtime.distributed import summed

ROUNDING = 1e-12
"""What sums of squares are known to, as a share of them; a smaller variance is none."""
MIX = 0.1
"""Part of the weight that is spread evenly: where one token has it all, the others keep its covariance from being
that of too few samples."""


@dataclass
class LinearMoments:
    """Moments of what a layer reads: at a writer of the rows that it multiplies, at a reader of the stream's channels.

    A convolution that writes multiplies patches, so a unit has as many inputs in a row as the kernel has entries.
    """

    tokens: int
    """Number of tokens of one image, N; where a layer runs in windows, those of all windows of the image."""
    weight: Tensor
    """Share of the loss gradient's second moment that falls on each token position, times N; shape (N,), mean 1
    (`MIX` of it spread evenly).

    In the last block of a network with a class token all of it lies on that token: what happens to the others there
    does not matter, so it must not count in `covariance`."""
    gradient: Tensor
    """Second moment of the loss gradient (nats per image), mean over tokens: at a writer's output, shape (D, D), at a
    reader's input, shape (U, U)."""
    mean: Tensor
    """Weighted mean of the input, shape (U,)."""
    covariance: Tensor
    """Weighted covariance of the input, shape (U, U)."""


@dataclass
class LogitMoments:
    """Second moments of the q/k dimensions of one block, mean over tokens."""

    tokens: int
    """Number of tokens of one image."""
    activation: Tensor
    """Second moment of q, shape (H, K, K)."""
    gradient: Tensor
    """Second moment of the loss gradient at q, shape (H, K, K)."""


@dataclass
class LayerMoments:
    """What rotation, damage and refit need to know of every layer that reads or writes a stream."""

    writers: dict[str, LinearMoments]
    """Name of the site whose units the writer reads, or of the writer where the site has several -> its moments."""
    readers: dict[str, LinearMoments]
    """Name of a layer that reads a stream -> its moments; one layer for all that share their input."""
    logits: dict[str, LogitMoments]
    """Name of a `qk` site -> its moments."""

    def token_weights(self) -> dict[str, Tensor]:
        """How much each token position matters, shape (N,), by the names of `writers` and `readers`."""
        return {name: read.weight for name, read in (self.writers | self.readers).items()}


class GradientWatch:
    """Collects the gradient side while somebody else runs forward and backward with losses summed over images."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model = inner_of(model)
        self.layers = _watched_layers(structure)
        self.qk_sites = [site for site in structure.sites if _has_logits(site) and structure.branches]
        self.images = 0
        self.images_at_hand = 0
        """Images of the batch that is being run: a hooked tensor may have one row for each window of each image."""
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def attached(self, batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
        """Hooks the layers, and yields the batches to be run meanwhile, one forward and backward for each."""
        layers = [(name, side, partial(self._on_layer, key)) for key, (name, side) in self.layers.items()]
        logits = [(site.gates[0].module, site.gates[0].side, partial(self._on_logits, site)) for site in self.qk_sites]
        with hooked(self.model, [*layers, *logits]):
            yield self._counted(batches)

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.images_at_hand = len(batch.images)
            self.images += self.images_at_hand
            yield batch

    def _on_layer(self, key: str, x: Tensor) -> None:
        layer = layer_at(self.model, self.layers[key][0])

        def on_gradient(grad: Tensor) -> None:
            g = positions(layer, grad)
            g = g.reshape(self.images_at_hand, -1, g.shape[-1]).double()
            self.tokens[key] = g.shape[1]
            flat = g.flatten(0, 1)
            self._add(_gradient_key(key), flat.T @ flat)
            self._add(_weight_key(key), g.square().sum((0, 2)))

        if x.requires_grad:  # else the objective says what is wrong
            x.register_hook(on_gradient)

    def _on_logits(self, site: Site, out: Tensor) -> None:
        held = [out.detach()]

        def grouped(x: Tensor) -> Tensor:  # (H, tokens of the batch, K)
            index = torch.as_tensor(site.gates[0].index[:, 0], device=x.device)
            return (
                x.double()
                .movedim(site.gates[0].dim, -1)[..., index]
                .flatten(0, -2)
                .unflatten(1, (site.groups, -1))
                .transpose(0, 1)
            )

        def on_gradient(grad: Tensor) -> None:
            x, g = grouped(held.pop()), grouped(grad)
            self.tokens[site.name] = x.shape[1] // self.images_at_hand
            self._add(_activation_key(site.name), x.mT @ x)
            self._add(_gradient_key(site.name), g.mT @ g)

        if out.requires_grad:
            out.register_hook(on_gradient)

    def _add(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def complete(self) -> None:
        """Take in what the other processes have seen.

        Raises:
            InputError: the loss does not depend on a layer.
        """
        for key, (name, _) in self.layers.items():
            if _weight_key(key) not in self.sums:
                raise InputError(
                    f"model: no gradient of the loss reaches {name}, the output does not depend on it; take the blocks "
                    "out that nothing reads, as timm's features_only does"
                )
        self.sums = {key: summed(value) for key, value in self.sums.items()}
        self.images = int(summed(torch.tensor(self.images, device=next(self.model.parameters()).device)))

    def logits(self) -> dict[str, LogitMoments]:
        """Name of a `qk` site -> its moments."""
        found = {}
        for name in (site.name for site in self.qk_sites):
            count = self.images * self.tokens[name]
            activation, gradient = (self.sums[key] / count for key in (_activation_key(name), _gradient_key(name)))
            found[name] = LogitMoments(self.tokens[name], activation, gradient)
        return found

    def gradient(self, key: str) -> tuple[Tensor, Tensor]:
        """Second moment of the gradient at a layer, and the weights of the tokens (N,)."""
        weight = self.sums[_weight_key(key)]
        even = torch.ones_like(weight)
        weight = (1 - MIX) * weight / weight.mean() + MIX * even if weight.any() else even
        return self.sums[_gradient_key(key)] / (self.images * self.tokens[key]), weight


def _gradient_key(name: str) -> str:
    return f"{name} gradient"


def _weight_key(name: str) -> str:
    return f"{name} weight"


def _activation_key(name: str) -> str:
    return f"{name} activation"


_NOTHING = torch.zeros((), dtype=torch.float64)


@dataclass
class Regression:
    """Weighted sums over a layer's inputs x and over what it should put out, t."""

    count: Tensor = _NOTHING
    """Sum of the weights."""
    x: Tensor = _NOTHING
    """Weighted sum of x, shape (U,)."""
    t: Tensor = _NOTHING
    """Weighted sum of t, shape (D,)."""
    xx: Tensor = _NOTHING
    """Weighted sum of x x', shape (U, U)."""
    tx: Tensor = _NOTHING
    """Weighted sum of t x', shape (D, U)."""
    tt: Tensor = _NOTHING
    """Weighted sum of the squares of t, shape (D,)."""

    def add(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """One batch.

        Args:
            x: shape (B, .., U); B may count windows, those of an image one after the other.
            t: shape (B, .., D), or None.
            weight: of each token of an image, shape (N,); None for equal ones.
        """
        x = _tokens(x, weight)
        weight = x.new_ones(x.shape[1]) if weight is None else weight
        weighted = (x * weight[:, None]).flatten(0, 1)
        self.count = self.count + len(x) * weight.sum()
        self.x = self.x + weighted.sum(0)
        self.xx = self.xx + weighted.T @ x.flatten(0, 1)
        if t is not None:
            t = _tokens(t, weight)
            self.t = self.t + torch.einsum("bnd,n->d", t, weight)
            self.tx = self.tx + t.flatten(0, 1).T @ weighted
            self.tt = self.tt + torch.einsum("bnd,n->d", t.square(), weight)

    def plus(self, other: Regression) -> Regression:
        """The sums over the images of both."""
        return Regression(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def mean(self) -> Tensor:
        return self.x / self.count

    def covariance(self) -> Tensor:
        return self.xx / self.count - torch.outer(self.mean(), self.mean())


def _tokens(x: Tensor, weight: Tensor | None) -> Tensor:
    """(B, .., C) -> (images, N, C) in double precision, where N is the number of weights."""
    shape = (len(x), -1) if weight is None else (-1, len(weight))
    return x.reshape(*shape, x.shape[-1]).double()


def layer_moments(
    model: nn.Module, structure: Structure, watch: GradientWatch, batches: Iterable[Batch]
) -> LayerMoments:
    """Complete what `watch` collected by the moments of the layers' inputs, from one forward pass."""
    watch.complete()
    first = next(watch.model.parameters())
    gradients = {key: watch.gradient(key) for key in watch.layers}
    found = {key: Regression() for key in watch.layers}

    def add(key: str, x: Tensor) -> None:
        name, side = watch.layers[key]
        layer = layer_at(watch.model, name)
        found[key].add(inputs(layer, x) if side == "output" else positions(layer, x), None, gradients[key][1])

    with (
        torch.inference_mode(),
        hooked(watch.model, [(name, "input", partial(add, key)) for key, (name, _) in watch.layers.items()]),
    ):
        for batch in batches:
            model(batch.images.to(first))
    found = {key: Regression(*map(summed, (r.count, r.x, r.t, r.xx, r.tx))) for key, r in found.items()}
    layers = {
        key: LinearMoments(len(weight), weight, gradient, found[key].mean(), found[key].covariance())
        for key, (gradient, weight) in gradients.items()
    }
    writers = structure.writers()
    return LayerMoments(
        writers={key: moments for key, moments in layers.items() if key in writers},
        readers={key: moments for key, moments in layers.items() if key not in writers},
        logits=watch.logits(),
    )


def _has_logits(site: Site) -> bool:
    """Are all its units dimensions of q in one tensor?"""
    return site.axis == "qk" and site.gates[0].units is None


def _watched_layers(structure: Structure) -> dict[str, Place]:
    """Key of the moments of a layer -> where the loss gradient is read: at a writer's output, at a reader's input."""
    writers: dict[str, Place] = {key: (each.writer, "output") for key, each in structure.writers().items()}
    readers: dict[str, Place] = {name: (name, "input") for name in structure.readers()}
    return writers | readers
