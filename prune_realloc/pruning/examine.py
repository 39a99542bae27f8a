"""A network and images -> scores, damage curves, and the network in the basis that it would be cut in."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from math import log
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.core.memory import Memory
from prune_realloc.core.structure import AXES, Site, Structure
from prune_realloc.data.calibration import Calibration
from prune_realloc.families import family_of
from prune_realloc.families.host import Host, copied, find_host, inner_of, sharing
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.damage import damage_curves, score_curve
from prune_realloc.pruning.doubts import Predicted, doubts, said_early
from prune_realloc.pruning.elimination import Curve
from prune_realloc.pruning.gates import Moments, activation_variances, gate_moments
from prune_realloc.pruning.moments import GradientWatch, layer_moments
from prune_realloc.pruning.objectives import Draws, Loss, Objective, is_classifier, objective_for
from prune_realloc.pruning.rotate import Basis, rotated
from prune_realloc.pruning.scorers import (
    ACTIVATION_SCORERS,
    GRADIENT_SCORERS,
    SCORERS,
    SLOPE_SCORERS,
    gradient_scores,
    weight_scores,
)
from prune_realloc.pruning.shown import never_shown
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.document import DEFAULT_AXES
from prune_realloc.runtime.device import out_of_memory_named
from prune_realloc.runtime.networks import count_classes, model_identity, module_kinds
from prune_realloc.tracing.memory import memory_of

_STEADY = 0.5
"""Rank correlation between halves of the images below which a note says so."""


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
    bases: Mapping[str, Basis]
    """Site -> the basis that its units are in, where it is not the source's."""


def facts_of(net: nn.Module) -> dict[str, Any]:
    """What a network that follows from this one takes and gives, (C, H, W) of an image and the number of classes; and
    the kinds of its modules."""
    inner = inner_of(net)
    return {
        "input_size": list(input_shape(inner)),
        "modules": module_kinds(inner),
        "num_classes": int(cast("Any", net).num_classes) if is_classifier(net) else 0,
    }


def check_scorer(scorer: str) -> None:
    """Raises InputError where `scorer` is none of `SCORERS`."""
    if scorer not in SCORERS:
        raise InputError(f"scorer {scorer!r} is unknown; choose one of {', '.join(SCORERS)}")


def examine(
    net: nn.Module,
    images: Calibration | None,
    *,
    scorer: str,
    seed: int,
    loss: Loss | None = None,
    amp: bool = False,
    source: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    rotate: bool = True,
    refit: bool = True,
) -> Examined:
    """Score `net`, in evaluation mode on the device to be used, and find what each width of each site would cost.

    Args:
        net: a supported network, or one of the caller's that holds one and is run in its place.
        images: None for weight-only scorers.
        loss: what gradients are taken of, on batches of the caller's; None: the labels, or draws.
        source, asked: how the network and the images were opened, for the record.
        rotate, refit: what will be done around a cut; with neither, units go in the order of their scores.
    """
    host = find_host(net)
    sites, structure = find_sites(net), family_of(host.inner).describe(host.inner)
    if not sites:
        why = "; ".join(structure.notes[:2]) or "it has no channels that anything else reads"
        raise InputError(f"model {host}: nothing of it can be cut: {why}")
    network = _folded(net, structure)
    if images is None:
        found = _Found(scores=weight_scores(scorer, host.inner, sites, seed), network=network)
    else:
        objective = objective_for(
            net, Draws(seed), labelled=images.classes is not None, loss=loss, slopes=scorer in SLOPE_SCORERS
        )
        with out_of_memory_named(images.loading["batch_size"], images.smaller):
            if scorer in ACTIVATION_SCORERS:
                found = _by_activations(network, sites, images, amp)
            else:
                found = _by_gradients(network, sites, structure, images, objective, scorer, amp, rotate, refit)
        found.facts["data"] = images.facts() | {"labels": objective.kind} | dict(asked or {})
        found.facts["samples"] = len(images.checksums)
    notes = [*_host_notes(host), *structure.notes, *found.notes, *(images.notes() if images is not None else ())]
    notes += [*_dead_sites(found.scores), *_unsteady(found.facts.get("stability", {}))]
    curves = found.curves or {site.name: score_curve(site, found.scores[site.name]) for site in sites}
    analysis = Analysis(
        scores=found.scores,
        damage={name: curve.damage for name, curve in curves.items()},
        widths=widths(sites),
        groups={site.name: site.groups for site in sites},
        multiples={site.name: site.multiple for site in sites if site.multiple > 1},
        terms=structure.terms,
        memory=_memory(network, sites) if host.stands_alone else None,
        scorer=scorer,
        unit="nats" if scorer in GRADIENT_SCORERS else scorer,
        seed=seed,
        model=model_identity(net) | facts_of(net) | _place_of(host) | dict(source or {}),
        notes=tuple(dict.fromkeys(notes)),
        versions=_versions(),
        **found.facts,
    )
    return Examined(analysis, found.network, sites, curves, found.weights, found.bases)


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
    bases: Mapping[str, Basis] = field(default_factory=dict)
    """As `Examined` has them."""
    facts: dict[str, Any] = field(default_factory=lambda: {"samples": 0, "data": None, "stability": {}})
    """Fields of the `Analysis` that tell how it was found."""
    notes: list[str] = field(default_factory=list)


def _folded(net: nn.Module, structure: Structure) -> nn.Module:
    """A copy without LayerScale, where its layers can be cut and refitted; what is equal shares the memory of `net`."""
    network = sharing(net)
    if structure.branches:
        inner = inner_of(network)
        with torch.no_grad():
            family_of(inner).fold_scales_(inner)
    return network


def _memory(network: nn.Module, sites: tuple[Site, ...]) -> Memory | None:
    """The formula of the memory of a pass on a CPU."""
    inner = inner_of(network)
    if next(inner.parameters()).device.type != "cpu":
        inner = copied(inner).cpu()
    return memory_of(inner, (1, *input_shape(inner)), sites)


def _place_of(host: Host) -> dict[str, str]:
    return {} if host.stands_alone else {"inside": host.at}


def _host_notes(host: Host) -> list[str]:
    if host.stands_alone:
        return []
    return [
        f"parameters and multiply-adds are those of {host.at} ({type(host.inner).__name__}); what is around it is run "
        "and left as it is"
    ]


def _by_activations(network: nn.Module, sites: tuple[Site, ...], images: Calibration, amp: bool) -> _Found:
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
    images: Calibration,
    objective: Objective,
    scorer: str,
    amp: bool,
    rotate: bool,
    refit: bool,
) -> _Found:
    """From two passes: one with gradients, and one for the moments of what layers read, where layers can be cut."""
    slopes = objective.slopes
    objective = said_early(objective, _classes(network))
    watch = GradientWatch(network, structure)
    with watch.attached(images) as batches:
        moments = gate_moments(network, sites, batches, objective=objective, amp=amp)
    found = _Found(scores=gradient_scores(scorer, moments, labelled=slopes), network=network)
    halves = [gradient_scores(scorer, moments, labelled=slopes, half=half) for half in (0, 1)]
    found.notes += _training_notes(scorer, moments, network, objective)
    found.notes += _dead_sites(found.scores, objective)
    if structure.branches:
        layers = layer_moments(network, structure, watch, images)
        found.notes += never_shown(layers.writers, structure, len(images.checksums))
        found.weights = layers.token_weights()
        if rotate:
            turned = rotated(network, structure, layers)
            found.network, layers, found.bases = turned.network, turned.moments, turned.bases
        if rotate or refit:
            found.curves = damage_curves(inner_of(found.network), sites, structure, layers, found.scores, refit=refit)
    found.facts |= {
        "loss": None if objective.kind == "random projections" else moments.loss,
        "top1": moments.right,
        "stability": _stability(sites, halves),
    }
    return found


def _versions() -> dict[str, str]:
    """Of the libraries that decide what is found."""
    names = ("prune-realloc", "torch", "timm", "torch-pruning", "numpy")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def _classes(network: nn.Module) -> int:
    return count_classes(network) if is_classifier(network) else 0


def _predicted(moments: Moments) -> Predicted:
    images = int(moments.count.sum())
    return Predicted(images=images, loss=moments.loss, right=moments.right, entropy=moments.entropy)


def _training_notes(scorer: str, moments: Moments, network: nn.Module, objective: Objective) -> list[str]:
    """What the predictions say of the network's training, and the labels of the scores."""
    if objective.kind == "own loss":
        return [
            "scores and damage are of the loss given: in nats where it is a negative log-likelihood, else for "
            "comparison among themselves"
        ]
    labelled, classes = objective.labelled, _classes(network)
    notes = doubts(_predicted(moments), classes)
    if not labelled and classes:
        notes.append(
            f"without labels nothing tells whether the images are of the model's domain; of at most {log(classes):.2f} "
            f"nats, its predictions have an entropy of {moments.entropy:.2f}"
        )
    if not labelled and scorer == "taylor":
        notes.append(
            "without labels the expected gradient is zero, so taylor ranks sampling noise; "
            "use --scorer fisher, or data with labels"
        )
    if not labelled and scorer == "loss" and classes:
        notes.append(
            "labels were drawn from the model's own prediction: the first-order term is zero in "
            "expectation and left out"
        )
    if not classes:
        what = "features" if find_host(network).stands_alone else "output, since no loss was given"
        notes.append(
            f"the model has no classifier: scores are of random projections of its {what}, and nothing tells whether "
            "the images are of its domain"
        )
        if find_host(network).stands_alone:
            notes.append("what reads its features expects all of them: its streams are cut only if --axes names embed")
    return notes


def _dead_sites(scores: Mapping[str, np.ndarray], objective: Objective | None = None) -> list[str]:
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
    if len(dead) == len(scores) and objective is not None and objective.kind == "own loss":
        raise InputError(
            "every score is zero: the loss given is at its least for every image, such as the distance of a network to "
            "itself; compare with labels, with another network, or draw what it is compared with"
        )
    if len(dead) == len(scores):
        raise InputError(
            "every score is zero: no gradient reaches any unit; the network is untrained (residual "
            "branches that start at zero) or constant"
        )
    if not dead:
        return []
    return [f"{len(dead)} sites have only zero scores, no gradient reaches them: {', '.join(dead[:5])}"]


def _unsteady(stability: Mapping[str, float]) -> list[str]:
    """A note on axes, of those that are cut if none are named, whose units the two halves of the images rank
    differently."""
    low = [f"{axis} {value:.2f}" for axis, value in stability.items() if value < _STEADY and axis in DEFAULT_AXES]
    if not low:
        return []
    return [
        f"two halves of the images rank units differently (rank correlation {', '.join(low)}): much of that ranking is "
        "which images were drawn; take more (samples)"
    ]


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
