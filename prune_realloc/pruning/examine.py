"""A network and images -> scores, damage curves, and the network in the basis that it would be cut in."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.core.structure import AXES, Site, Structure
from prune_realloc.data.stream import ImageStream
from prune_realloc.families import cuttable_family_of, family_of
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
    """Site name -> in which order its units go, and what is lost."""
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
    sites, structure = find_sites(net), family_of(net).describe(net)
    network = _folded(net, structure)
    if images is None:
        found = _Found(scores=weight_scores(scorer, net, sites, seed), network=network)
    else:
        with out_of_memory_named(images.loading["batch_size"]):
            if scorer in ACTIVATION_SCORERS:
                found = _by_activations(network, sites, images, amp)
            else:
                found = _by_gradients(network, sites, structure, images, scorer, seed, amp, rotate, refit)
        found.facts["data"] = images.facts() | {"labels": _label_kind(net, images)} | dict(asked or {})
        found.facts["samples"] = len(images.checksums)
    notes = [*structure.notes, *found.notes, *(images.notes() if images is not None else ())]
    notes += _dead_sites(found.scores)
    curves = found.curves or {site.name: score_curve(site, found.scores[site.name]) for site in sites}
    analysis = Analysis(
        scores=found.scores,
        damage={name: curve.damage for name, curve in curves.items()},
        widths=widths(sites),
        groups={site.name: site.groups for site in sites},
        multiples={site.name: site.multiple for site in sites if site.multiple > 1},
        terms=structure.terms,
        scorer=scorer,
        unit="nats" if scorer in GRADIENT_SCORERS else scorer,
        seed=seed,
        model=model_identity(net) | facts_of(net) | dict(source or {}),
        notes=tuple(dict.fromkeys(notes)),
        versions=_versions(),
        **found.facts,
    )
    return Examined(analysis, found.network, sites, curves, found.weights)


@dataclass(kw_only=True)
class _Found:
    """What one kind of scorer finds."""

    scores: Mapping[str, np.ndarray]
    network: nn.Module
    """In the basis to be cut in."""
    curves: Mapping[str, Curve] | None = None
    """Damage of each width; None where nothing better is known than scores that add up."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """How much each token position matters, as `Examined` has it."""
    facts: dict[str, Any] = field(default_factory=lambda: {"samples": 0, "data": None, "stability": {}})
    """Fields of the `Analysis` that tell how it was found."""
    notes: list[str] = field(default_factory=list)


def _folded(net: nn.Module, structure: Structure) -> nn.Module:
    """A copy without LayerScale, where its layers can be cut and refitted."""
    network = copy.deepcopy(net)
    if structure.branches:
        with torch.no_grad():
            cuttable_family_of(net).fold_scales_(network)
    return network


def _by_activations(network: nn.Module, sites: tuple[Site, ...], images: ImageStream, amp: bool) -> _Found:
    """From one pass without gradients."""
    by_half = activation_variances(network, sites, images, amp=amp)
    seen = [half for half in (0, 1) if any(np.isfinite(v[half]).any() for v in by_half.values())]
    halves = seen or [0, 1]  # one image leaves the half of the odd ones empty
    found = _Found(scores={name: v[halves].mean(axis=0) for name, v in by_half.items()}, network=network)
    found.facts["stability"] = _stability(sites, [{name: v[half] for name, v in by_half.items()} for half in (0, 1)])
    return found


def _by_gradients(
    network: nn.Module,
    sites: tuple[Site, ...],
    structure: Structure,
    images: ImageStream,
    scorer: str,
    seed: int,
    amp: bool,
    rotate: bool,
    refit: bool,
) -> _Found:
    """From two passes: one with gradients, and one for the moments of what layers read, where layers can be cut."""
    labelled, classes = images.classes is not None, count_classes(network)
    draws = torch.rand(images.wanted, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    watch = GradientWatch(network, structure)
    with watch.attached(images) as batches:
        moments = gate_moments(network, sites, batches, draws=draws, labelled=labelled, amp=amp)
    found = _Found(scores=gradient_scores(scorer, moments, labelled=labelled), network=network)
    halves = [gradient_scores(scorer, moments, labelled=labelled, half=half) for half in (0, 1)]
    found.notes += _training_notes(scorer, moments, classes, labelled)
    found.notes += _dead_sites(found.scores)
    if structure.branches:
        layers = layer_moments(network, structure, watch, images)
        found.weights = layers.token_weights()
        if rotate:
            found.network, layers = rotated(network, structure, layers)
        if rotate or refit:
            found.curves = damage_curves(found.network, sites, structure, layers, found.scores, refit=refit)
    found.facts |= {
        "loss": moments.loss if classes else None,
        "top1": moments.right,
        "stability": _stability(sites, halves),
    }
    return found


def _label_kind(net: nn.Module, images: ImageStream) -> str:
    """Where the labels come from that the loss is taken at."""
    if images.classes is not None:
        return "given"
    return "drawn from the model" if count_classes(net) else "random projections"


def _versions() -> dict[str, str]:
    """Of the libraries that decide what is found."""
    names = ("prune-realloc", "torch", "timm", "torch-pruning", "numpy")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def _training_notes(scorer: str, moments: Moments, classes: int, labelled: bool) -> list[str]:
    """What the predictions say of the network's training, and the labels of the scores."""
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


def _dead_sites(scores: Mapping[str, np.ndarray]) -> list[str]:
    """A note where some sites have only zero scores.

    Raises:
        InputError: all have, or a score is not finite.
    """
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
    if not dead:
        return []
    return [f"{len(dead)} sites have only zero scores, no gradient reaches them: {', '.join(dead[:5])}"]


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
