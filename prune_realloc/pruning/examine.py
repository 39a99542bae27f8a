"""A network and images -> scores, damage curves, and the network in the basis that it would be cut in."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.core.structure import AXES, Site
from prune_realloc.data.stream import ImageStream
from prune_realloc.families import family_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.damage import damage_curves, score_curve
from prune_realloc.pruning.elimination import Curve
from prune_realloc.pruning.gates import Moments, activation_variances, gate_moments
from prune_realloc.pruning.moments import GradientWatch, layer_moments
from prune_realloc.pruning.rotate import rotated
from prune_realloc.pruning.scorers import ACTIVATION_SCORERS, GRADIENT_SCORERS, SCORERS, gradient_scores, weight_scores
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.device import out_of_memory_named
from prune_realloc.runtime.networks import count_classes, model_identity


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


def facts_of(net: nn.Module) -> dict[str, Any]:
    """What a network that follows from this one takes and gives: (C, H, W) of an image, and the number of classes."""
    return {"input_size": list(input_shape(net)), "num_classes": count_classes(net)}


def check_scorer(scorer: str) -> None:
    """Raises InputError where `scorer` is none of `SCORERS`."""
    if scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; choose one of {', '.join(SCORERS)}")


def examine(
    net: nn.Module,
    images: ImageStream | None,
    *,
    scorer: str,
    seed: int,
    amp: bool = False,
    source: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    rotate: bool = True,
    refit: bool = True,
) -> Examined:
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
        facts = {
            "samples": len(images.checksums),
            "loss": loss,
            "top1": top1,
            "stability": _stability(sites, halves),
            "data": images.facts() | {"labels": given} | dict(asked or {}),
        }
    _check_scores(scores, notes)
    if curves is None:
        curves = {site.name: score_curve(site, scores[site.name]) for site in sites}
    return Examined(
        Analysis(
            scores=scores,
            damage={name: curve.damage for name, curve in curves.items()},
            widths=widths(sites),
            groups={site.name: site.groups for site in sites},
            terms=structure.terms,
            scorer=scorer,
            unit="nats" if scorer in GRADIENT_SCORERS else scorer,
            seed=seed,
            model=model_identity(net) | facts_of(net) | dict(source or {}),
            notes=tuple(dict.fromkeys(notes)),
            versions={name: version(name) for name in ("prune-realloc", "torch", "timm", "torch-pruning", "numpy")}
            | {"python": platform.python_version()},
            **facts,
        ),
        network,
        sites,
        curves,
        weights,
    )


def _training_notes(scorer: str, moments: Moments, classes: int, labelled: bool) -> list[str]:
    notes = []
    if labelled and classes > 1 and moments.right is not None and moments.right < 1.5 / classes:
        notes.append(
            f"the model is right on {moments.right:.1%} of the images, near chance: it looks untrained, "
            "or the labels are not its own"
        )
    elif classes > 1 and moments.entropy is not None and moments.entropy > 0.98 * log(classes):
        notes.append("the model's predictions are close to uniform: it looks untrained")
    if not labelled and scorer == "taylor":
        notes.append(
            "without labels the expected gradient is zero, so taylor ranks sampling noise; "
            "use --scorer fisher, or data with labels"
        )
    if not labelled and scorer == "loss" and classes:
        notes.append(
            "labels were drawn from the model's own prediction: the first-order term is zero in "
            "expectation and left out, so loss equals fisher here"
        )
    if not classes:
        notes.append("the model has no classifier: scores are of random projections of its features")
    return notes


def _check_scores(scores: Mapping[str, np.ndarray], notes: list[str]) -> None:
    broken = [name for name, s in scores.items() if not np.isfinite(s).all()]
    if broken:
        raise InputError(
            f"scores of {broken[0]} ({len(broken)} sites) are not finite; the weights or images overflow, "
            "try without --amp"
        )
    dead = [name for name, s in scores.items() if not s.any()]
    if len(dead) == len(scores):
        raise InputError(
            "every score is zero: no gradient reaches any unit; the network is untrained (residual "
            "branches that start at zero) or constant"
        )
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
