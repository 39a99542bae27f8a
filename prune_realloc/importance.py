"""Scorers: one number per unit of every site; larger = keep.

All gradient scorers read the same quantity. Put a gate z = 1 on a unit; then for image b with loss L_b (nats)

    s_b = dL_b/dz = sum over tokens and channels of activation x its gradient

is at once gradient x activation and, summed over the unit's weights, gradient x weight. One forward and one
backward over the data give s_b for every unit and image, because the loss is summed over the images of a batch
and each image's gate is read before anything mixes images. Then

    taylor  |mean_b s_b|                             Molchanov et al., CVPR 2019, eq. 8 (before squaring)
    fisher  mean_b s_b^2 / 2                         Theis et al., arXiv 1801.05787, eq. 7
    loss    -mean_b s_b + mean_b s_b^2 / 2           the second-order expansion of the loss change when z goes to
                                                     0, its curvature by the empirical Fisher
"""

# B images, N tokens, C channels, U units

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.data import Batch
from prune_realloc.families import family_of
from prune_realloc.processes import summed
from prune_realloc.session import count_classes
from prune_realloc.sites import Gate, Site, Slice

WEIGHT_SCORERS = ("magnitude", "magnitude-l1", "random")
GRADIENT_SCORERS = ("taylor", "fisher", "loss")
ACTIVATION_SCORERS = ("activation",)
SCORERS = (*GRADIENT_SCORERS, *ACTIVATION_SCORERS, *WEIGHT_SCORERS)
DEFAULT_SCORER = "fisher"


# -- statistics of one pass over the data ---------------------------------------------------------------------


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
    model: nn.Module, sites: Iterable[Site], batches: Iterable[Batch], *,
    draws: Tensor, labelled: bool, amp: bool = False,
) -> Moments:  # fmt: skip
    """Moments of the per-sample gate gradients from one forward and backward per batch.

    Args:
        model: in evaluation mode; its weights and their gradients are not touched.
        draws: uniform numbers in [0, 1), one per image of the whole run: they decide the label that is drawn from
            the model's own prediction, so that it does not depend on the batch split. Their bits also seed the
            projections of a model without a classifier.
        labelled: use the batches' labels.
        amp: run in bfloat16 autocast.
    """
    sites = tuple(sites)
    device = next(model.parameters()).device
    double = torch.float64
    count = torch.zeros(2, dtype=double, device=device)
    first = {site.name: torch.zeros(2, site.units, dtype=double, device=device) for site in sites}
    second = {name: torch.zeros_like(total) for name, total in first.items()}
    loss_sum, right_sum, entropy_sum = 0.0, 0, 0.0
    classifier = count_classes(model) > 0
    with _frozen(model), torch.enable_grad():
        for batch in batches:
            images = batch.images.to(device)
            scores: dict[str, Tensor] = {}
            with (
                _tapped(model, sites, partial(_add_gate_gradients, scores)),
                torch.autocast(device.type, torch.bfloat16, enabled=amp),
            ):
                out = model(images) if classifier else family_of(model).features(model, images)
            losses, right, entropy = _losses(_at_least_single(out), batch, draws, labelled, classifier)
            losses.sum().backward()
            odd = (batch.positions % 2 == 1).to(device)
            for half, members in enumerate((~odd, odd)):
                count[half] += members.sum()
                for name, s in scores.items():
                    # windows are scored one by one; those of an image are one after the other
                    part = s.unflatten(0, (len(images), -1)).sum(1)[members].to(double)
                    first[name][half] += part.sum(0)
                    second[name][half] += part.square().sum(0)
            loss_sum += float(losses.detach().double().sum())
            right_sum += right
            entropy_sum += entropy
    count = summed(count)
    first, second = ({name: summed(total) for name, total in totals.items()} for totals in (first, second))
    loss_sum, right_sum, entropy_sum = summed(torch.tensor([loss_sum, right_sum, entropy_sum], dtype=double)).tolist()
    images_seen = float(count.sum())
    return Moments(
        count=count.cpu().numpy(),
        first={name: total.cpu().numpy() for name, total in first.items()},
        second={name: total.cpu().numpy() for name, total in second.items()},
        loss=loss_sum / images_seen,
        right=right_sum / images_seen if labelled else None,
        entropy=entropy_sum / images_seen if classifier else None,
    )


def activation_variances(
    model: nn.Module, sites: Iterable[Site], batches: Iterable[Batch], *, amp: bool = False
) -> dict[str, np.ndarray]:
    """Variance over images and tokens of each unit's activation at its gates (for `ffn`: after the activation).

    Summed over the unit's channels and gates. Returns shape (2, U) per site: the two halves of the data.
    """
    sites = tuple(sites)
    device = next(model.parameters()).device
    sums: dict[tuple[str, str], Tensor] = {}

    with torch.inference_mode():
        for batch in batches:
            odd = (batch.positions % 2 == 1).to(device)

            def add(key: tuple[str, str], gates: list[tuple[Site, Gate]], x: Tensor, odd: Tensor = odd) -> None:
                flat = x.double().movedim(gates[0][1].dim, -1).flatten(1, -2)  # (B, tokens, C)
                flat = flat.reshape(len(odd), -1, flat.shape[-1])  # the windows of an image are one after the other
                if key not in sums:
                    sums[key] = torch.zeros(2, 3, flat.shape[2], dtype=torch.float64, device=device)
                for half, members in enumerate((~odd, odd)):
                    part = flat[members].flatten(0, 1)
                    sums[key][half, 0] += len(part)
                    sums[key][half, 1] += part.sum(0)
                    sums[key][half, 2] += part.square().sum(0)

            with _tapped(model, sites, add), torch.autocast(device.type, torch.bfloat16, enabled=amp):
                model(batch.images.to(device))
    variances: dict[str, np.ndarray] = {site.name: np.zeros((2, site.units)) for site in sites}
    for site in sites:
        for gate in site.gates:
            count, total, squares = summed(sums[gate.module, gate.side]).cpu().numpy().transpose(1, 0, 2)
            with np.errstate(invalid="ignore"):  # a half without images
                variance = squares / count - (total / count) ** 2
            variances[site.name][:, _units(gate)] += variance[:, gate.index].sum(axis=2)
    return variances


@contextmanager
def masked(model: nn.Module, site: Site, units: Iterable[int]) -> Iterator[None]:
    """Inside the block, `units` of `site` are switched off: their channels are zero at all the site's gates."""
    picked = list(units)

    def zeroed(gate: Gate, x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[gate.dim], dtype=x.dtype, device=x.device)
        index = gate.index[picked] if gate.units is None else gate.index[np.isin(gate.units, picked)]
        keep[torch.as_tensor(index.ravel())] = 0
        return (x.movedim(gate.dim, -1) * keep).movedim(-1, gate.dim)

    handles = []
    try:
        for gate in site.gates:
            module = model.get_submodule(gate.module)
            if gate.side == "input":
                handles.append(module.register_forward_pre_hook(
                    lambda _, args, gate=gate: (zeroed(gate, args[0]), *args[1:])))  # fmt: skip
            else:
                handles.append(module.register_forward_hook(lambda _, __, out, gate=gate: zeroed(gate, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


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


@contextmanager
def _tapped(
    model: nn.Module, sites: tuple[Site, ...],
    use: Callable[[tuple[str, str], list[tuple[Site, Gate]], Tensor], None],
) -> Iterator[None]:  # fmt: skip
    """Calls `use` with every gated activation as it is computed; one hook serves all gates at a place."""
    places: dict[tuple[str, str], list[tuple[Site, Gate]]] = defaultdict(list)
    for site in sites:
        for gate in site.gates:
            places[gate.module, gate.side].append((site, gate))
    handles = []
    try:
        for key, gates in places.items():
            module = model.get_submodule(key[0])
            if key[1] == "input":
                handles.append(module.register_forward_pre_hook(
                    lambda _, args, key=key, gates=gates: use(key, gates, args[0])))  # fmt: skip
            else:
                handles.append(module.register_forward_hook(
                    lambda _, __, out, key=key, gates=gates: use(key, gates, out)))  # fmt: skip
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_gate_gradients(
    scores: dict[str, Tensor], key: tuple[str, str], gates: list[tuple[Site, Gate]], x: Tensor
) -> None:
    """Once the gradient of `x` is known, adds activation x gradient of each image to the gates' sites."""
    if not x.requires_grad:
        x.requires_grad_()  # no weight asks for gradients, so the first gate is where the graph begins
    held = [x.detach()]

    def on_gradient(grad: Tensor) -> None:
        kept = held.pop()  # the graph keeps this function until the next batch; the activation must go now
        runs: dict[tuple[int, int], Tensor] = {}  # sites that read the same channels share one product
        for site, gate in gates:
            start, stop = int(gate.index.min()), int(gate.index.max()) + 1
            if (start, stop) not in runs:
                a, g = (t.movedim(gate.dim, -1)[..., start:stop] for t in (kept, grad))
                runs[start, stop] = (_at_least_single(a) * g).flatten(1, -2).sum(1)
            s = _gather(runs[start, stop], gate.index - start)
            if gate.units is not None:
                s = s.new_zeros(len(s), site.units).index_copy(1, torch.as_tensor(gate.units, device=s.device), s)
            scores[site.name] = scores[site.name] + s if site.name in scores else s

    x.register_hook(on_gradient)


def _units(part: Gate | Slice) -> np.ndarray | slice:
    """Which of its site's units a gate or slice is about."""
    return slice(None) if part.units is None else part.units


def _at_least_single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _gather(values: Tensor, index: np.ndarray) -> Tensor:
    """(B, C) -> (B, U): the sum over each unit's channels."""
    if index.shape[1] == 1 and index.shape[0] == values.shape[1] and (index[:, 0] == np.arange(len(index))).all():
        return values
    return values[:, torch.as_tensor(index, device=values.device)].sum(2)


def _losses(out: Tensor, batch: Batch, draws: Tensor, labelled: bool, classifier: bool) -> tuple[Tensor, int, float]:
    """Loss of each image (B,), how many the model gets right, and the summed entropy of its predictions."""
    if not classifier:
        directions = torch.stack([_direction(float(draws[p]), out.shape[1]) for p in batch.positions.tolist()])
        return (out * directions.to(out.device)).sum(1), 0, 0.0
    log_p = F.log_softmax(out, dim=1)
    entropy = float(-(log_p.detach().exp() * log_p.detach()).sum())
    if labelled:
        target = batch.labels.to(out.device)
    else:
        u = draws[batch.positions].to(out.device, torch.float64)[:, None]
        cumulated = log_p.detach().double().exp().cumsum(1)
        target = (cumulated < u * cumulated[:, -1:]).sum(1)
    right = int((out.detach().argmax(1) == target).sum()) if labelled else 0
    return F.nll_loss(log_p, target, reduction="none"), right, entropy


def _direction(draw: float, width: int) -> Tensor:
    """A standard normal vector that belongs to one image: its loss is the projection of the features on it."""
    return torch.randn(width, generator=torch.Generator().manual_seed(int(draw * 2**53)))


# -- scores ---------------------------------------------------------------------------------------------------


def gradient_scores(scorer: str, moments: Moments, *, labelled: bool, half: int | None = None) -> dict[str, np.ndarray]:
    """Scores of every unit, in nats per image, from the moments of all images or of one half.

    Without labels the first-order term is zero in expectation (labels drawn from the model's own prediction), so
    `loss` leaves its sampling noise out and equals `fisher`.
    """
    pick = slice(None) if half is None else slice(half, half + 1)
    count = max(moments.count[pick].sum(), 1.0)
    scores = {}
    for name in moments.first:
        mean = moments.first[name][pick].sum(0) / count
        square = moments.second[name][pick].sum(0) / count
        if scorer == "taylor":
            scores[name] = np.abs(mean)
        elif scorer == "fisher" or not labelled:
            scores[name] = square / 2
        else:
            scores[name] = square / 2 - mean
    return scores


def weight_scores(scorer: str, model: nn.Module, sites: Iterable[Site], seed: int = 0) -> dict[str, np.ndarray]:
    """`magnitude` (L2) or `magnitude-l1` over all slices of each unit, or `random` (uniform, seeded)."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    scores = {}
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        if scorer == "random":
            scores[site.name] = torch.rand(site.units, generator=generator, dtype=torch.float64).numpy()
            continue
        total = np.zeros(site.units)
        for part in site.slices:
            tensor = parameters[part.parameter].double()
            powers = tensor.abs() if scorer == "magnitude-l1" else tensor.square()
            others = [d for d in range(tensor.ndim) if d != part.dim]
            along = powers.sum(others) if others else powers
            total[_units(part)] += along.cpu().numpy()[part.index].sum(axis=1)
        scores[site.name] = total if scorer == "magnitude-l1" else np.sqrt(total)
    return scores


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN where one side is constant or not finite."""
    if len(a) < 2 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
