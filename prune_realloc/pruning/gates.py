"""One number per unit and image: activation times its gradient, summed over tokens, from one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Gate, Site, Slice
from prune_realloc.data.batches import Batch
from prune_realloc.data.nested import single
from prune_realloc.families.host import inner_of
from prune_realloc.pruning.hooks import Place, tapped
from prune_realloc.pruning.objectives import Losses, Objective
from prune_realloc.runtime.distributed import summed


@dataclass
class Moments:
    """Per-sample gate gradients of every site, summed over the two halves (even and odd images) of the data."""

    count: np.ndarray
    """Images in each half, shape (2,)."""
    first: dict[str, np.ndarray]
    """Site -> sum of s_b in each half, shape (2, U), float64."""
    second: dict[str, np.ndarray]
    """Site -> sum of s_b^2 in each half, shape (2, U), float64."""
    loss: float
    """Mean loss, nats per image."""
    right: float | None
    """Share of images whose top-1 is their label; None without labels."""
    entropy: float | None
    """Mean entropy of the model's prediction, nats; None without a classifier."""


def gate_moments(
    model: nn.Module,
    sites: Iterable[Site],
    batches: Iterable[Batch],
    *,
    objective: Objective,
    amp: bool = False,
) -> Moments:
    """Moments of the per-sample gate gradients from one forward and backward per batch.

    Args:
        model: in evaluation mode; its weights and their gradients are not touched, nor are those of a loss.
        objective: gives the loss of each image.
        amp: run in bfloat16 autocast.
    """
    sites, inner = tuple(sites), inner_of(model)
    device = next(inner.parameters()).device
    sums = _GateSums(sites, device)
    with _frozen(model), torch.enable_grad():
        for batch in batches:
            batch = batch.on(device)
            scores: dict[str, Tensor] = {}
            starts: list[Tensor] = []
            with (
                tapped(inner, sites, partial(_add_gate_gradients, scores, starts, len(batch.images))),
                torch.autocast(device.type, torch.bfloat16, enabled=amp),
            ):
                out = objective.run(model, batch.images)
            losses = objective.judge(out, batch)
            losses.backed().sum().backward(inputs=starts or None)
            sums.add(scores, batch.positions, losses)
    return sums.moments(objective)


class _GateSums:
    """Sums over the images that one process has seen, in each half: even and odd images."""

    def __init__(self, sites: Iterable[Site], device: torch.device) -> None:
        self.count = torch.zeros(2, dtype=torch.float64, device=device)
        self.first = {site.name: torch.zeros(2, site.units, dtype=torch.float64, device=device) for site in sites}
        self.second = {name: torch.zeros_like(total) for name, total in self.first.items()}
        self.loss, self.right, self.entropy = 0.0, 0, 0.0

    def add(self, scores: Mapping[str, Tensor], positions: Tensor, losses: Losses) -> None:
        """One batch: scores of each site, shape (B, U), and losses."""
        odd = (positions % 2 == 1).to(self.count.device)
        for half, members in enumerate((~odd, odd)):
            self.count[half] += members.sum()
            for name, s in scores.items():
                part = s[members].to(torch.float64)
                self.first[name][half] += part.sum(0)
                self.second[name][half] += part.square().sum(0)
        self.loss += float(losses.each.detach().double().sum())
        self.right += losses.right
        self.entropy += losses.entropy

    def moments(self, objective: Objective) -> Moments:
        """Over the images of all processes."""
        count = summed(self.count)
        first, second = (
            {name: summed(total).cpu().numpy() for name, total in totals.items()}
            for totals in (self.first, self.second)
        )
        sums = torch.tensor([self.loss, self.right, self.entropy], dtype=torch.float64)
        loss, right, entropy = (summed(sums) / float(count.sum())).tolist()
        return Moments(
            count=count.cpu().numpy(),
            first=first,
            second=second,
            loss=loss,
            right=right if objective.labelled else None,
            entropy=entropy if objective.classifier else None,
        )


def activation_variances(
    model: nn.Module, sites: Iterable[Site], batches: Iterable[Batch], *, amp: bool = False
) -> dict[str, np.ndarray]:
    """Variance over images and tokens of each unit's activation at its gates (for `ffn`: after the activation).

    Summed over the unit's channels and gates. Returns shape (2, U) per site: the two halves of the data.
    """
    sites, inner = tuple(sites), inner_of(model)
    device = next(inner.parameters()).device
    sums: dict[Place, Tensor] = {}
    with torch.inference_mode():
        for batch in batches:
            odd = (batch.positions % 2 == 1).to(device)
            with (
                tapped(inner, sites, partial(_add_activations, sums, odd)),
                torch.autocast(device.type, torch.bfloat16, enabled=amp),
            ):
                model(batch.images.to(device))
    variances: dict[str, np.ndarray] = {site.name: np.zeros((2, site.units)) for site in sites}
    for site in sites:
        for gate in site.gates:
            count, total, squares = summed(sums[gate.module, gate.side]).cpu().numpy().transpose(1, 0, 2)
            with np.errstate(invalid="ignore"):  # a half without images
                variance = squares / count - (total / count) ** 2
            variances[site.name][:, unit_values(gate)] += variance[:, gate.index].sum(axis=2)
    return variances


def _add_activations(
    sums: dict[Place, Tensor], odd: Tensor, place: Place, gates: list[tuple[Site, Gate]], x: Tensor
) -> None:
    """Adds count, sum and sum of squares of each channel to `sums`, shape (2, 3, C): the halves of the images."""
    flat = x.double().movedim(gates[0][1].dim, -1)
    flat = flat.reshape(len(odd), -1, flat.shape[-1])  # (B, tokens, C); windows of an image are one after the other
    if place not in sums:
        sums[place] = torch.zeros(2, 3, flat.shape[2], dtype=torch.float64, device=flat.device)
    for half, members in enumerate((~odd, odd)):
        part = flat[members].flatten(0, 1)
        sums[place][half, 0] += len(part)
        sums[place][half, 1] += part.sum(0)
        sums[place][half, 2] += part.square().sum(0)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient: that third of a training step is not needed. Put back afterwards."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(False)
        yield
    finally:
        for p, wanted in before:
            p.requires_grad_(wanted)


def _add_gate_gradients(
    scores: dict[str, Tensor],
    starts: list[Tensor],
    images: int,
    place: Place,
    gates: list[tuple[Site, Gate]],
    x: Tensor,
) -> Tensor | None:
    """Once the gradient of `x` is known, adds activation x gradient of each image to the gates' sites.

    Args:
        starts: gets the tensors where the graph begins.

    Returns:
        What goes into the module in place of `x`, of which others may take the same tensor; None behind it.
    """
    if not x.requires_grad:
        x.requires_grad_()  # no weight asks for gradients, so the first gate is where the graph begins
        starts.append(x)
    own = x.view_as(x) if place[1] == "input" else x
    held = [x.detach()]

    def on_gradient(grad: Tensor) -> None:
        kept = held.pop()  # the graph keeps this function until the next batch; the activation must go now
        runs: dict[tuple[int, int], Tensor] = {}  # sites that read the same channels share one product
        for site, gate in gates:
            start, stop = int(gate.index.min()), int(gate.index.max()) + 1
            if (start, stop) not in runs:
                a, g = (t.movedim(gate.dim, -1)[..., start:stop] for t in (kept, grad))
                product = single(a) * g
                runs[start, stop] = product.reshape(len(product), -1, product.shape[-1]).sum(1)
            s = _gather_units(runs[start, stop], gate.index - start)
            if gate.units is not None:
                s = s.new_zeros(len(s), site.units).index_copy(1, torch.as_tensor(gate.units, device=s.device), s)
            s = s.unflatten(0, (images, -1)).sum(1)  # the windows of an image are one after the other
            scores[site.name] = scores[site.name] + s if site.name in scores else s

    own.register_hook(on_gradient)
    return own if own is not x else None


def unit_values(part: Gate | Slice) -> np.ndarray | slice:
    """Which of its site's units a gate or slice is about."""
    return slice(None) if part.units is None else part.units


def _gather_units(values: Tensor, index: np.ndarray) -> Tensor:
    """(B, C) -> (B, U): the sum over each unit's channels."""
    if index.shape[1] == 1 and index.shape[0] == values.shape[1] and (index[:, 0] == np.arange(len(index))).all():
        return values
    return values[:, torch.as_tensor(index, device=values.device)].sum(2)
