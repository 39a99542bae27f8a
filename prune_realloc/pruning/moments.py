"""Second moments of activations and of loss gradients, layer by layer: what rotation, damage and refit read.

Everything is summed in float64 while the batches stream by; no activation outlives its batch.
"""

# B images, N tokens, D stream channels, U units that a writer reads, H heads, K q/k width of a head

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Site, Structure
from prune_realloc.data.batches import Batch
from prune_realloc.pruning.hooks import hooked
from prune_realloc.runtime.distributed import summed

MIX = 0.1
"""Part of the weight that is spread evenly: where one token has it all, the others keep its covariance from being
that of too few samples."""


@dataclass
class LinearMoments:
    """Of what a linear layer reads: of a writer's units, or of the stream's channels at a reader."""

    tokens: int
    """Of one image."""
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
    """Of the q/k dimensions of one block: second moments of q and of the loss gradient at q, shape (H, K, K)."""

    tokens: int
    activation: Tensor
    gradient: Tensor


@dataclass
class LayerMoments:
    writers: dict[str, LinearMoments]
    """By the name of the site whose units the writer reads."""
    readers: dict[str, LinearMoments]
    """By the name of a layer that reads the stream; one for layers that share their input."""
    logits: dict[str, LogitMoments]
    """By the name of the `qk` site."""


class GradientWatch:
    """Collects the gradient side while somebody else runs forward and backward with losses summed over images."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model, self.structure = model, structure
        self.images = 0
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        with hooked(
            self.model,
            [
                *(
                    (branch.writer, "output", partial(self._on_layer, branch.site))
                    for branch in self.structure.branches
                ),
                *((name, "input", partial(self._on_layer, name)) for name in _readers(self.structure)),
                *(
                    (site.gates[0].module, "output", partial(self._on_logits, site))
                    for site in self.structure.sites
                    if site.axis == "qk"
                ),
            ],
        ):
            yield

    def _on_layer(self, key: str, x: Tensor) -> None:
        if key == self.structure.branches[0].site:
            self.images += len(x)

        def on_gradient(grad: Tensor) -> None:
            g = grad.reshape(len(grad), -1, grad.shape[-1]).double()
            self.tokens[key] = g.shape[1]
            flat = g.flatten(0, 1)
            self._add(f"{key} gradient", flat.T @ flat)
            self._add(f"{key} weight", g.square().sum((0, 2)))

        x.register_hook(on_gradient)

    def _on_logits(self, site: Site, out: Tensor) -> None:
        held = [out.detach()]

        def grouped(x: Tensor) -> Tensor:  # (H, tokens of the batch, K)
            index = torch.as_tensor(site.gates[0].index[:, 0], device=x.device)
            return x.double()[..., index].flatten(0, -2).unflatten(1, (site.groups, -1)).transpose(0, 1)

        def on_gradient(grad: Tensor) -> None:
            x, g = grouped(held.pop()), grouped(grad)
            self.tokens[site.name] = x.shape[1] // len(grad)
            self._add(f"{site.name} activation", x.mT @ x)
            self._add(f"{site.name} gradient", g.mT @ g)

        out.register_hook(on_gradient)

    def _add(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def complete(self) -> None:
        """Take in what the other processes have seen."""
        self.sums = {key: summed(value) for key, value in self.sums.items()}
        self.images = int(summed(torch.tensor(self.images, device=next(self.model.parameters()).device)))

    def logits(self) -> dict[str, LogitMoments]:
        found = {}
        for site in self.structure.sites:
            if site.axis == "qk":
                count = self.images * self.tokens[site.name]
                activation, gradient = (self.sums[f"{site.name} {what}"] / count for what in ("activation", "gradient"))
                found[site.name] = LogitMoments(self.tokens[site.name], activation, gradient)
        return found

    def gradient(self, key: str) -> tuple[Tensor, Tensor]:
        """Second moment of the gradient at a layer, and the weights of the tokens (N,)."""
        weight = self.sums[f"{key} weight"]
        even = torch.ones_like(weight)
        weight = (1 - MIX) * weight / weight.mean() + MIX * even if weight.any() else even
        return self.sums[f"{key} gradient"] / (self.images * self.tokens[key]), weight


_NOTHING = torch.zeros((), dtype=torch.float64)


@dataclass
class Regression:
    """Weighted moments of a layer's input x, shape (.., U), and of what it should put out, t, shape (.., D)."""

    count: Tensor = _NOTHING
    x: Tensor = _NOTHING
    t: Tensor = _NOTHING
    xx: Tensor = _NOTHING
    tx: Tensor = _NOTHING

    def add(self, x: Tensor, t: Tensor | None, weight: Tensor | None) -> None:
        """One batch: x (B, .., U), t (B, .., D) or None, weight of each token (N,) or None for equal ones."""
        x = x.reshape(len(x), -1, x.shape[-1]).double()
        weight = x.new_ones(x.shape[1]) if weight is None else weight
        weighted = (x * weight[:, None]).flatten(0, 1)
        self.count = self.count + len(x) * weight.sum()
        self.x = self.x + weighted.sum(0)
        self.xx = self.xx + weighted.T @ x.flatten(0, 1)
        if t is not None:
            t = t.reshape(len(x), -1, t.shape[-1]).double()
            self.t = self.t + torch.einsum("bnd,n->d", t, weight)
            self.tx = self.tx + t.flatten(0, 1).T @ weighted

    def mean(self) -> Tensor:
        return self.x / self.count

    def covariance(self) -> Tensor:
        return self.xx / self.count - torch.outer(self.mean(), self.mean())


def layer_moments(
    model: nn.Module, structure: Structure, watch: GradientWatch, batches: Iterable[Batch]
) -> LayerMoments:
    """Complete what `watch` collected by the moments of the writers' inputs, from one forward pass."""
    watch.complete()
    first = next(model.parameters())
    layers = {branch.site: branch.writer for branch in structure.branches} | {n: n for n in _readers(structure)}
    gradients = {key: watch.gradient(key) for key in layers}
    inputs = {key: Regression() for key in layers}

    def add(key: str, x: Tensor) -> None:
        inputs[key].add(x, None, gradients[key][1])

    with (
        torch.inference_mode(),
        hooked(model, [(name, "input", partial(add, key)) for key, name in layers.items()]),
    ):
        for batch in batches:
            model(batch.images.to(first))
    inputs = {key: Regression(*map(summed, (r.count, r.x, r.t, r.xx, r.tx))) for key, r in inputs.items()}
    found = {
        key: LinearMoments(len(weight), weight, gradient, inputs[key].mean(), inputs[key].covariance())
        for key, (gradient, weight) in gradients.items()
    }
    sites = {branch.site for branch in structure.branches}
    return LayerMoments(
        writers={key: moments for key, moments in found.items() if key in sites},
        readers={key: moments for key, moments in found.items() if key not in sites},
        logits=watch.logits(),
    )


def _readers(structure: Structure) -> tuple[str, ...]:
    """One layer for every place where the stream is read."""
    return (*(branch.readers[0] for branch in structure.branches), *structure.exits)
