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

import hashlib
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.analysis import Analysis
from prune_realloc.checkpoint import load_model, model_identity
from prune_realloc.data import Batch, ImageSource, Preprocessing, iterate, open_images, preprocessing
from prune_realloc.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.sites import AXES, Gate, Site, find_sites, widths

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

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
    classifier = _classes(model) > 0
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
                    part = s[members].to(double)
                    first[name][half] += part.sum(0)
                    second[name][half] += part.square().sum(0)
            loss_sum += float(losses.detach().double().sum())
            right_sum += right
            entropy_sum += entropy
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
                flat = x.double().flatten(1, -2)  # (B, tokens, C)
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
            count, total, squares = sums[gate.module, gate.side].cpu().numpy().transpose(1, 0, 2)
            with np.errstate(invalid="ignore"):  # a half without images
                variance = squares / count - (total / count) ** 2
            variances[site.name] += variance[:, gate.index].sum(axis=2)
    return variances


@contextmanager
def masked(model: nn.Module, site: Site, units: Iterable[int]) -> Iterator[None]:
    """Inside the block, `units` of `site` are switched off: their channels are zero at all the site's gates."""
    picked = list(units)

    def zeroed(index: np.ndarray, x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
        keep[torch.as_tensor(index[picked].ravel())] = 0
        return x * keep

    handles = []
    try:
        for gate in site.gates:
            module = model.get_submodule(gate.module)
            if gate.side == "input":
                handles.append(module.register_forward_pre_hook(
                    lambda _, args, index=gate.index: (zeroed(index, args[0]), *args[1:])))  # fmt: skip
            else:
                handles.append(module.register_forward_hook(lambda _, __, out, index=gate.index: zeroed(index, out)))
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
                product = _at_least_single(kept[..., start:stop]) * grad[..., start:stop]
                runs[start, stop] = product.flatten(1, -2).sum(1)
            s = _gather(runs[start, stop], gate.index - start)
            scores[site.name] = scores[site.name] + s if site.name in scores else s

    x.register_hook(on_gradient)


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


def _classes(model: nn.Module) -> int:
    return int(getattr(model, "num_classes", 0) or 0)


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
            total += along.cpu().numpy()[part.index].sum(axis=1)
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


# -- the verb -------------------------------------------------------------------------------------------------


def analyze(
    model: nn.Module | str | None = None,
    *,
    ckpt: str | Path | None = None,
    pretrained: bool = False,
    ema: bool = False,
    img_size: int | tuple[int, int] | None = None,
    model_args: Mapping[str, Any] | None = None,
    data: str | None = None,
    split: str = "train",
    data_dir: str | None = None,
    labels: bool = True,
    preprocess: Mapping[str, Any] | None = None,
    scorer: str = DEFAULT_SCORER,
    samples: int = 1024,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    amp: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Analysis:
    """Score every unit of every site of a trained ViT.

    Args:
        model, ckpt, pretrained, ema, img_size, model_args: as in `load_model`; `model` may also be a network. With
            neither `model` nor `ckpt`, the shipped network is analysed on the shipped images.
        data, split, data_dir: as in `open_images`; needed by every scorer that looks at images.
        labels: False draws the labels from the model's own prediction even where the data has some.
        preprocess: overrides of the model's own preprocessing: mean, std, interpolation, crop_pct, crop_mode.
        scorer: one of `SCORERS`.
        samples: how many images, chosen by `seed`.
        device: `auto`, `cpu` or `cuda`.
        amp: bfloat16 autocast.

    Raises:
        InputError: the model, the data or an option cannot be used; the message says what to change.
    """
    _check_options(scorer, samples, batch_size, workers)
    shipped = model is None and ckpt is None
    net = model if isinstance(model, nn.Module) else load_model(
        model, ckpt=ckpt, pretrained=pretrained, ema=ema, img_size=img_size, model_args=model_args
    )  # fmt: skip
    data = "demo" if data is None and shipped else data
    target = _device(device)
    sites = find_sites(net)
    structure = family_of(net).describe(net)
    notes = list(structure.notes)
    identity = model_identity(net) | {"ckpt": None if ckpt is None else str(ckpt)}
    facts: dict[str, Any] = {"samples": 0, "data": None, "stability": {}}
    if scorer in WEIGHT_SCORERS:
        scores = weight_scores(scorer, net, sites, seed)
    else:
        if data is None:
            raise InputError(
                f"scorer {scorer!r} looks at images; name some with --data, or use one of {WEIGHT_SCORERS}"
            )
        source = open_images(data, split=split, data_dir=data_dir, samples=samples)
        prepare = preprocessing(net, family_of(net).example_input(net)[1:], preprocess or {})
        labelled = _use_labels(net, source, labels)
        was_training, home = net.training, next(net.parameters()).device
        try:
            scores, facts = _score_on_images(
                scorer, net.to(target).eval(), sites, source, prepare, split=split, samples=samples,
                batch_size=batch_size, workers=workers, labelled=labelled, amp=amp, seed=seed, progress=progress,
            )  # fmt: skip
        finally:
            net.to(home).train(was_training)
        notes += facts.pop("notes")
    _check_scores(scores, notes)
    return Analysis(
        scores=scores,
        widths=widths(sites),
        groups={site.name: site.groups for site in sites},
        terms=structure.terms,
        scorer=scorer,
        unit="nats" if scorer in GRADIENT_SCORERS else scorer,
        seed=seed,
        model=identity,
        notes=tuple(notes),
        versions={name: version(name) for name in ("prune-realloc", "torch", "timm", "torch-pruning", "numpy")}
        | {"python": platform.python_version()},
        **facts,
    )


def _score_on_images(
    scorer: str, net: nn.Module, sites: tuple[Site, ...], source: ImageSource, prepare: Preprocessing, *,
    split: str, samples: int, batch_size: int, workers: int, labelled: bool, amp: bool, seed: int,
    progress: Progress | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:  # fmt: skip
    """Scores, and the fields of Analysis that come from the images."""
    wanted = min(samples, source.count)
    unreadable: list[str] = []
    checksums: list[int] = []

    def batches() -> Iterator[Batch]:
        done = 0
        for batch in iterate(source, prepare, samples=wanted, batch_size=batch_size, seed=seed, workers=workers,
                             unreadable=unreadable):  # fmt: skip
            if labelled and not 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < _classes(net):
                raise InputError(
                    f"data {source.name!r} has the label {int(batch.labels.max())}, the model {_classes(net)} classes; "
                    "give the data it was trained on, or --no-labels"
                )
            yield batch
            checksums.extend(batch.checksums)
            done += len(batch.labels)
            if progress is not None:
                progress(done, wanted)

    notes: list[str] = []
    loss = top1 = None
    with _out_of_memory_named(batch_size):
        if scorer in ACTIVATION_SCORERS:
            by_half = activation_variances(net, sites, batches(), amp=amp)
            halves = [{name: v[h] for name, v in by_half.items()} for h in (0, 1)]
            scores = {name: v.mean(axis=0) for name, v in by_half.items()}
        else:
            draws = torch.rand(wanted, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            moments = gate_moments(net, sites, batches(), draws=draws, labelled=labelled, amp=amp)
            scores = gradient_scores(scorer, moments, labelled=labelled)
            halves = [gradient_scores(scorer, moments, labelled=labelled, half=h) for h in (0, 1)]
            loss, top1 = moments.loss if _classes(net) else None, moments.right
            notes += _training_notes(scorer, moments, _classes(net), labelled)
    if unreadable:
        notes.append(f"{len(unreadable)} of {wanted} images could not be read and were left out: "
                     + "; ".join(unreadable[:5]) + ("; ..." if len(unreadable) > 5 else ""))  # fmt: skip
    if wanted < samples:
        notes.append(f"the data has {source.count} images, {samples} were asked for")
    facts = {
        "samples": len(checksums),
        "loss": loss,
        "top1": top1,
        "stability": _stability(sites, halves),
        "notes": notes,
        "data": {
            "name": source.name,
            "split": split,
            "labels": "given" if labelled else ("drawn from the model" if _classes(net) else "random projections"),
            "checksum": hashlib.sha256(np.asarray(checksums, dtype=np.uint32).tobytes()).hexdigest(),
            "input_size": list(prepare.input_size),
            "mean": list(prepare.mean),
            "std": list(prepare.std),
            "interpolation": prepare.interpolation,
            "crop_pct": prepare.crop_pct,
            "crop_mode": prepare.crop_mode,
        },
    }
    return scores, facts


def _check_options(scorer: str, samples: int, batch_size: int, workers: int) -> None:
    if scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; choose one of {', '.join(SCORERS)}")
    for name, value, least in (
        ("samples", samples, 1),
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _use_labels(net: nn.Module, source: ImageSource, wanted: bool) -> bool:
    classes = _classes(net)
    if not wanted or not classes or source.num_classes == 0:
        return False
    if source.num_classes is not None and source.num_classes != classes:
        raise InputError(
            f"data {source.name!r} has {source.num_classes} classes, the model {classes}; "
            "give the data it was trained on, or --no-labels to draw labels from its own prediction"
        )
    return True


def _training_notes(scorer: str, moments: Moments, classes: int, labelled: bool) -> list[str]:
    notes = []
    if labelled and classes > 1 and moments.right is not None and moments.right < 1.5 / classes:
        notes.append(f"the model is right on {moments.right:.1%} of the images, near chance: it looks untrained, "
                     "or the labels are not its own")  # fmt: skip
    elif classes > 1 and moments.entropy is not None and moments.entropy > 0.98 * log(classes):
        notes.append("the model's predictions are close to uniform: it looks untrained")
    if not labelled and scorer == "taylor":
        notes.append("without labels the expected gradient is zero, so taylor ranks sampling noise; "
                     "use --scorer fisher, or data with labels")  # fmt: skip
    if not labelled and scorer == "loss" and classes:
        notes.append("labels were drawn from the model's own prediction: the first-order term is zero in "
                     "expectation and left out, so loss equals fisher here")  # fmt: skip
    if not classes:
        notes.append("the model has no classifier: scores are of random projections of its features")
    return notes


def _check_scores(scores: Mapping[str, np.ndarray], notes: list[str]) -> None:
    broken = [name for name, s in scores.items() if not np.isfinite(s).all()]
    if broken:
        raise InputError(f"scores of {broken[0]} ({len(broken)} sites) are not finite; the weights or images overflow, "
                         "try without --amp")  # fmt: skip
    dead = [name for name, s in scores.items() if not s.any()]
    if len(dead) == len(scores):
        raise InputError("every score is zero: no gradient reaches any unit; the network is untrained (residual "
                         "branches that start at zero) or constant")  # fmt: skip
    if dead:
        notes.append(f"{len(dead)} sites have only zero scores, no gradient reaches them: {', '.join(dead[:5])}")


def _stability(sites: tuple[Site, ...], halves: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Rank correlation between the halves over all units of an axis."""
    found: dict[str, float] = {}
    for axis in AXES:
        names = [site.name for site in sites if site.axis == axis]
        if names:
            value = rank_correlation(*(np.concatenate([half[name] for name in names]) for half in halves))
            if np.isfinite(value):
                found[axis] = round(value, 4)
    return found


@contextmanager
def _out_of_memory_named(batch_size: int) -> Iterator[None]:
    try:
        yield
    except (
        MemoryError,
        RuntimeError,
    ) as error:  # torch raises RuntimeErrors that differ by device and version
        words = ("can't allocate memory", "not enough memory", "out of memory")
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in words):
            raise
        raise InputError(f"batch_size {batch_size} does not fit into memory; lower --batch-size") from error
