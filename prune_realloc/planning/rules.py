"""How what was measured is read: as it is, or, as a control of the measurement, otherwise or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from prune_realloc.planning.retention import COMPONENTS, Retention
from prune_realloc.planning.shapes import Place, places_of
from prune_realloc.recipe.target import Target

Rule = Callable[[Retention, int], Retention]
"""What pruning kept, and a seed -> what the widths follow from."""


def kept(measured: Retention, seed: int) -> Retention:
    """What was measured, as it is."""
    return measured


def shuffled(measured: Retention, seed: int) -> Retention:
    """The shares of all components at all places change places, and so do those of the stages."""
    draw = np.random.default_rng(seed)
    shares, stages = (_permuted(values, draw) for values in ([*measured.component.values()], measured.stage))
    component = dict(zip(measured.component, shares, strict=True))
    return replace(measured, component=component, stage=tuple(stages))


def inverted(measured: Retention, seed: int) -> Retention:
    """What kept most is given least: each share is taken from the sum of the largest and the least of its kind."""
    component: dict[tuple[str, Place], float] = {}
    for name in measured.whole:
        places = [place for other, place in measured.component if other == name]
        shares = _mirrored([measured.component[name, place] for place in places])
        component |= {(name, place): share for place, share in zip(places, shares, strict=True)}
    return replace(measured, component=component, stage=tuple(_mirrored(measured.stage)))


def least(target: Target) -> Retention:
    """Nothing is asked for inside blocks, and the stages have the uniform network's proportions."""
    places = places_of(target)
    return Retention(
        component={(name, place): 0.0 for name in COMPONENTS for place in places},
        stage=(1.0,) * (1 + places[-1].stage),
        whole=dict.fromkeys(COMPONENTS, 0.0),
    )


RULES: dict[str, Rule] = {"kept": kept, "shuffled": shuffled, "inverted": inverted}
"""Those that read what pruning kept; the others give the least inside blocks, and the channels by curves."""


def _permuted(values: Sequence[float], draw: np.random.Generator) -> list[float]:
    return [values[place] for place in draw.permutation(len(values))]


def _mirrored(values: Sequence[float]) -> list[float]:
    return [max(values) + min(values) - value for value in values]
