"""The verb `analyze`: a network and images -> an Analysis, and what `apply` needs to go on from it."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.analysis import Analysis
from prune_realloc.checkpoint import load_model, model_identity
from prune_realloc.compensate import rotated
from prune_realloc.damage import Curve, damage_curves, score_curve
from prune_realloc.data import open_images, preprocessing
from prune_realloc.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.importance import (
    ACTIVATION_SCORERS,
    DEFAULT_SCORER,
    GRADIENT_SCORERS,
    SCORERS,
    WEIGHT_SCORERS,
    Moments,
    activation_variances,
    gate_moments,
    gradient_scores,
    rank_correlation,
    weight_scores,
)
from prune_realloc.moments import GradientWatch, layer_moments
from prune_realloc.session import (
    ImageStream,
    Progress,
    count_classes,
    evaluation_mode,
    input_shape,
    out_of_memory_named,
    pick_device,
    require_at_least,
    use_labels,
)
from prune_realloc.sites import AXES, Site, find_sites, widths


@dataclass(frozen=True, eq=False)
class Examined:
    """An analysis, and the network in the basis that it would be cut in."""

    analysis: Analysis
    network: nn.Module
    """The same function as the source; LayerScale folded, Q/K and V rotated where that was wanted and possible."""
    sites: tuple[Site, ...]
    curves: Mapping[str, Curve]
    weights: Mapping[str, Tensor]
    """By a writer's site and by a reader: how much each token position matters; empty for scorers without gradients."""


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
    check_scorer(scorer)
    for name, value, least in (("samples", samples, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        require_at_least(name, value, least)
    target = pick_device(device)
    net = model if isinstance(model, nn.Module) else load_model(
        model, ckpt=ckpt, pretrained=pretrained, ema=ema, img_size=img_size, model_args=model_args
    )  # fmt: skip
    if data is None and model is None and ckpt is None:
        data = "demo"
    if data is None and scorer not in WEIGHT_SCORERS:
        raise InputError(f"scorer {scorer!r} looks at images; name some with --data, or use one of {WEIGHT_SCORERS}")
    images = None if scorer in WEIGHT_SCORERS else calibration(
        net, str(data), split=split, data_dir=data_dir, labels=labels, preprocess=preprocess, samples=samples,
        batch_size=batch_size, workers=workers, seed=seed, progress=progress,
    )  # fmt: skip
    source = {
        "model": None if isinstance(model, nn.Module) else model, "ckpt": None if ckpt is None else str(ckpt),
        "pretrained": pretrained, "ema": ema, "img_size": img_size, "model_args": dict(model_args or {}),
    }  # fmt: skip
    asked = {"split": split, "data_dir": data_dir, "preprocess": dict(preprocess or {})}
    with evaluation_mode(net, device=target):
        return examine(net, images, scorer=scorer, seed=seed, amp=amp, source=source, asked=asked).analysis


def calibration(
    net: nn.Module, data: str, *, split: str, data_dir: str | None, labels: bool,
    preprocess: Mapping[str, Any] | None, samples: int, batch_size: int, workers: int, seed: int,
    progress: Progress | None,
) -> ImageStream:  # fmt: skip
    """The images that a network is scored and refitted on."""
    source = open_images(data, split=split, data_dir=data_dir, samples=samples)
    prepare = preprocessing(net, input_shape(net), preprocess or {})
    labelled = use_labels(net, source, labels)
    return ImageStream(source, prepare, classes=count_classes(net) if labelled else None, samples=samples,
                       batch_size=batch_size, seed=seed, workers=workers, progress=progress)  # fmt: skip


def facts_of(net: nn.Module) -> dict[str, Any]:
    """What a network that follows from this one takes and gives: (C, H, W) of an image, and the number of classes."""
    return {"input_size": list(input_shape(net)), "num_classes": count_classes(net)}


def check_scorer(scorer: str) -> None:
    """Raises InputError where `scorer` is none of `SCORERS`."""
    if scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; choose one of {', '.join(SCORERS)}")


def examine(
    net: nn.Module, images: ImageStream | None, *, scorer: str, seed: int, amp: bool = False,
    source: Mapping[str, Any] | None = None, asked: Mapping[str, Any] | None = None,
    rotate: bool = True, refit: bool = True,
) -> Examined:  # fmt: skip
    """Score `net`, in evaluation mode on the device to be used, and find what each width of each site would cost.

    Args:
        images: None for weight-only scorers.
        source, asked: how the network and the images were opened, for the record.
        rotate, refit: what will be done around a cut; with neither, units go in the order of their scores.
    """
    sites = find_sites(net)
    family = family_of(net)
    structure = family.describe(net)
    notes = list(structure.notes)
    network = copy.deepcopy(net)
    with torch.no_grad():
        family.fold_(network)
    facts: dict[str, Any] = {"samples": 0, "data": None, "stability": {}}
    weights: dict[str, Tensor] = {}
    curves: dict[str, Curve] | None = None
    if images is None:
        scores = weight_scores(scorer, net, sites, seed)
    else:
        classes, batch_size = count_classes(net), images.loading["batch_size"]
        labelled = images.classes is not None
        loss = top1 = None
        with out_of_memory_named(batch_size):
            if scorer in ACTIVATION_SCORERS:
                by_half = activation_variances(network, sites, images, amp=amp)
                halves = [{name: v[h] for name, v in by_half.items()} for h in (0, 1)]
                scores = {name: v.mean(axis=0) for name, v in by_half.items()}
            else:
                draws = torch.rand(images.wanted, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                watch = GradientWatch(network, structure)
                with watch.attached() if structure.branches else nullcontext():
                    moments = gate_moments(network, sites, images, draws=draws, labelled=labelled, amp=amp)
                scores = gradient_scores(scorer, moments, labelled=labelled)
                halves = [gradient_scores(scorer, moments, labelled=labelled, half=h) for h in (0, 1)]
                loss, top1 = moments.loss if classes else None, moments.right
                notes += _training_notes(scorer, moments, classes, labelled)
                _check_scores(scores, notes)
                if structure.branches:
                    layers = layer_moments(network, structure, watch, images)
                    weights = {name: read.weight for name, read in (layers.writers | layers.readers).items()}
                    if rotate:
                        network, layers = rotated(network, structure, layers)
                    if rotate or refit:
                        curves = damage_curves(network, sites, structure, layers, scores, refit=refit)
        notes += images.notes()
        given = "given" if labelled else ("drawn from the model" if classes else "random projections")
        facts = {"samples": len(images.checksums), "loss": loss, "top1": top1, "stability": _stability(sites, halves),
                 "data": images.facts() | {"labels": given} | dict(asked or {})}  # fmt: skip
    _check_scores(scores, notes)
    if curves is None:
        curves = {site.name: score_curve(site, scores[site.name]) for site in sites}
    return Examined(
        Analysis(
            scores=scores, damage={name: curve.damage for name, curve in curves.items()}, widths=widths(sites),
            groups={site.name: site.groups for site in sites}, terms=structure.terms, scorer=scorer,
            unit="nats" if scorer in GRADIENT_SCORERS else scorer, seed=seed,
            model=model_identity(net) | facts_of(net) | dict(source or {}), notes=tuple(dict.fromkeys(notes)),
            versions={name: version(name) for name in ("prune-realloc", "torch", "timm", "torch-pruning", "numpy")}
            | {"python": platform.python_version()},
            **facts,
        ),
        network, sites, curves, weights,
    )  # fmt: skip


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
