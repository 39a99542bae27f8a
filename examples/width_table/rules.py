"""What foretells how well an allocation trains: damage curves of an analysis, and laws that have measured nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from allocations import HEADS, Allocation
from judge import Rule

from prune_realloc import Analysis
from prune_realloc.core.structure import site_place
from prune_realloc.models.efficientvit import EfficientVit

DEPTHS = (1, 2, 3)
COMPONENTS = ("embed", "qk", "v", "ffn")
Curves = Mapping[str, tuple[np.ndarray, ...]]
"""Component -> for each stage what the source loses with a share 0 .. 1 of the component left, in nats."""
SHARES = np.linspace(0, 1, 65)


def curves_of(analysis: Analysis) -> Curves:
    """Each stage has the stream at its depth; inside blocks the curves at the stage's depth are added up."""
    found = {name: [np.zeros(len(SHARES)) for _ in DEPTHS] for name in COMPONENTS}
    blocks = 1 + max(block for _, block in map(site_place, analysis.damage) if block is not None)
    for name, damage in analysis.damage.items():
        axis, block = site_place(name)
        if axis in COMPONENTS and block is not None:
            for stage, share in enumerate(_in_stages(block, blocks)):
                found[axis][stage] += share * _by_share(damage)
    found["embed"] = [_by_share(analysis.damage[name]) for name in _stream_of_stages(analysis)]
    return {name: tuple(stages) for name, stages in found.items()}


def channels_of(analysis: Analysis) -> tuple[int, ...]:
    """Of the source's stream at the depth of each stage."""
    return tuple(analysis.widths[name] for name in _stream_of_stages(analysis))


def _stream_of_stages(analysis: Analysis) -> Iterator[str]:
    streams = [name for name in analysis.damage if site_place(name)[0] == "embed"]
    for stage in range(len(DEPTHS)):
        yield streams[int((stage + 0.5) / len(DEPTHS) * len(streams))]


def _by_share(damage: np.ndarray) -> np.ndarray:
    return np.interp(SHARES * (len(damage) - 1), np.arange(len(damage)), damage)


def _in_stages(block: int, blocks: int) -> Iterator[float]:
    """Which share of a block lies at the depth of each stage."""
    first, depth = 0, sum(DEPTHS)
    for own in DEPTHS:
        start, end = first / depth * blocks, (first + own) / depth * blocks
        yield max(0.0, min(end, block + 1) - max(start, block))
        first += own


def predicted(curves: Curves, components: tuple[str, ...], channels: tuple[int, ...]) -> Rule:
    """The sum of what widths lose; channels as a share of the source's `channels`, others of the uniform width."""

    def shares(allocation: Allocation) -> dict[str, np.ndarray]:
        ratios = allocation.ratios
        part = np.array(allocation.embed) / HEADS
        inner = {"qk": np.array(allocation.qk) / part, "v": ratios["v"], "ffn": ratios["ffn"] / 4}
        return {"embed": np.array(allocation.embed) / np.array(channels), **inner}

    def quality(allocation: Allocation) -> float:
        own = shares(allocation)
        lost = (
            np.interp(own[name][stage], SHARES, curves[name][stage])
            for name in components
            for stage in range(len(DEPTHS))
        )
        return -float(sum(lost))

    return quality


def swapped(curves: Curves, seed: int) -> Curves:
    """The curves of other components and stages, by chance."""
    every = [curve for name in COMPONENTS for curve in curves[name]]
    order = np.random.default_rng(seed).permutation(len(every))
    stages = len(DEPTHS)
    return {
        name: tuple(every[order[i * stages + stage]] for stage in range(stages)) for i, name in enumerate(COMPONENTS)
    }


def law(allocation: Allocation) -> float:
    """Channels have falling returns in every stage, and nothing else counts."""
    return -sum(1 / width for width in allocation.embed)


def synflow(allocation: Allocation) -> float:
    """Tanaka et al., NeurIPS 2020: the sum of |weight x gradient| of an untrained network without data."""
    torch.manual_seed(0)
    net = EfficientVit(allocation.config()).eval().double()
    for p in net.parameters():
        p.data.abs_()
    net(torch.ones(1, *net.config.input_size, dtype=torch.float64)).sum().backward()
    return float(sum((p.detach() * p.grad).sum() for p in net.parameters() if p.grad is not None))
