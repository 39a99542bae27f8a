"""What channels are worth: for each stage of the target what is lost with so many, measured or by a law. No torch here.

A curve is a line of powers between its points, and goes on as the power of its last two: where the measurement ends,
more channels still lose less, by what they did last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.shapes import base_config
from prune_realloc.recipe.target import CurvePoints, Target

FELT = 0.01
"""Nats per image; where less is lost, a curve does not say what more channels are worth."""
_PLAN = "the source is a plan, which holds no damage curve; for rule stream give the folder of the analysis"
_SPACING = 1.1
"""Factor between the channels of two points of a curve, at least; more of them tell little and fill the recipe."""


class NoCurve(InputError):
    """The source shows no damage curve of a stream."""


@dataclass(frozen=True)
class Curve:
    """What a stage loses with so many channels; falls strictly."""

    points: CurvePoints
    """(channels, loss), two or more; channels rise and losses fall."""

    def loss(self, channels: np.ndarray | Sequence[int]) -> np.ndarray:
        """Of the shape of `channels`, each 1 or more."""
        at, lost = np.log(np.array(self.points, dtype=float)).T
        wanted = np.log(np.asarray(channels, dtype=float))
        segment = np.clip(np.searchsorted(at, wanted, side="right") - 1, 0, len(at) - 2)
        slope = (lost[1:] - lost[:-1]) / (at[1:] - at[:-1])
        found: np.ndarray = np.exp(lost[segment] + slope[segment] * (wanted - at[segment]))
        return found

    @property
    def measured_to(self) -> int:
        """The most channels that a measurement says something of."""
        return self.points[-1][0]


LAW = Curve(((1, 1.0), (2, 0.5)))
"""Falling returns without any measurement: 1 / channels."""


def stream_curves(analysis: Analysis, target: Target) -> tuple[Curve, ...]:
    """For each stage of the target the damage curve of the source's stream at its depth.

    Raises:
        NoCurve: the source has no stream with such a curve.
    """
    if analysis.unit != "nats":
        raise _no_curve(f"its scores are in {analysis.unit}, not in nats")
    streams = [damage for name, damage in analysis.damage.items() if site_place(name)[0] == "embed"]
    if not streams:
        raise _no_curve("it has no stream (embed) that can be cut")
    stages = len(base_config(target).depth)
    found = [_curve(streams[int((stage + 0.5) / stages * len(streams))]) for stage in range(stages)]
    if None in found:
        raise _no_curve(f"its stream loses less than {FELT:g} nats, however few of its channels stay")
    return tuple(curve for curve in found if curve is not None)


def swapped_curves(analysis: Analysis, target: Target) -> tuple[Curve, ...]:
    """As a control of them: for each stage the curve of any component at any stage's depth, by the target's seed.

    The curve of a share of a component's units counts as that of the same share of the stream's channels. Curves that
    nowhere lose what is felt are left out.

    Raises:
        NoCurve: as `stream_curves`.
    """
    own = stream_curves(analysis, target)
    channels = max(width for name, width in analysis.widths.items() if site_place(name)[0] == "embed")
    others = (_curve(damage, channels) for damage in _at_stages(analysis, target))
    every = [*own, *(curve for curve in others if curve is not None)]
    order = np.random.default_rng(target.seed).permutation(len(every))
    return tuple(every[place] for place in order[: len(own)])


def with_rule(target: Target, given: Target, analysis: Analysis | None) -> tuple[dict[str, Any], str | None]:
    """The rule that is followed and its curves, as fields of the target; and why, where nobody asked for it and it is
    not `stream`.

    Args:
        target: what is wanted.
        given: the recipe's target; its curves count as long as rule and seed are the same.
        analysis: the source, where it is one.

    Raises:
        NoCurve: the rule follows curves, and an analysis shows none.
    """
    if analysis is None:
        same = target.rule == given.rule and (target.rule == "stream" or target.seed == given.seed)
        fields = _fields(target.rule or "kept", given.curves if same else None)
        return fields, None if target.rule else f"rule kept: {_PLAN}"
    if target.rule is None:
        try:
            return _fields("stream", _points(stream_curves(analysis, target))), None
        except NoCurve as error:
            return _fields("kept", None), f"rule kept: {str(error).removeprefix('target.rule: ')}"
    read = {"stream": stream_curves, "swapped": swapped_curves}.get(target.rule)
    return _fields(target.rule, None if read is None else _points(read(analysis, target))), None


def _fields(rule: str, curves: tuple[CurvePoints, ...] | None) -> dict[str, Any]:
    return {"rule": rule, "curves": curves}


def _points(curves: Sequence[Curve]) -> tuple[CurvePoints, ...]:
    """As a recipe holds them: one for all stages where they are alike."""
    return (curves[0].points,) if len({*curves}) == 1 else tuple(curve.points for curve in curves)


def _no_curve(why: str) -> NoCurve:
    return NoCurve(
        f"target.rule: the source shows no damage curve of a stream, because {why}; give the folder of an analysis "
        "that does (scorer fisher), or rule kept or unmeasured"
    )


def _curve(damage: np.ndarray, channels: int | None = None) -> Curve | None:
    """Of the losses with 0 .. width units left, as of so many `channels`; None where less than two are felt."""
    width = len(damage) - 1
    scale = (channels or width) / width
    points: list[tuple[int, float]] = []
    for units in range(1, width):
        at, lost = max(1, round(units * scale)), float(f"{damage[units]:.4g}")
        apart = not points or (at >= _SPACING * points[-1][0] and at > points[-1][0] and lost < points[-1][1])
        if lost >= FELT and apart:
            points.append((at, lost))
    return Curve(tuple(points)) if len(points) > 1 else None


def _at_stages(analysis: Analysis, target: Target) -> Iterator[np.ndarray]:
    """Of each component inside blocks, at the depth of each stage: what its shares 0 .. 1 lose."""
    depths = base_config(target).depth
    ends = [sum(depths[:stage]) / sum(depths) for stage in range(len(depths) + 1)]
    places = {name: site_place(name) for name in analysis.damage}
    blocks = 1 + max(block for _, block in places.values() if block is not None)
    shares = np.linspace(0, 1, 65)
    for axis in INNER_AXES:
        for start, end in pairwise(ends):
            total = np.zeros(len(shares))
            for name, (own, block) in places.items():
                if own == axis and block is not None:
                    damage, within = analysis.damage[name], min(end * blocks, block + 1) - max(start * blocks, block)
                    total += max(0.0, within) * np.interp(shares, np.linspace(0, 1, len(damage)), damage)
            yield total
