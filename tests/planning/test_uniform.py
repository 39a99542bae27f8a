"""The same share everywhere, and one share for each axis."""

import dataclasses
import itertools

import numpy as np
import pytest
from support.analyses import (
    DEIT_S,
    INNER,
    make_analysis,
    of_axis,
    widths_of,
)

from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe


@pytest.mark.parametrize("share", [0.35, 0.5, 0.66, 0.9])
@pytest.mark.parametrize("axes", [INNER, (*INNER, "heads", "embed")], ids="+".join)
def test_uniform_widths_differ_by_one_multiple(deit_s, axes, share):
    planned = plan(deit_s, Recipe(budget={"keep_macs": share}, allocation="uniform", axes=axes))
    multiples = {"qk": 8 / 64, "v": 8 / 64, "ffn": 8 / 1536, "heads": 1 / 6, "embed": 8 / 384}
    whole = {"qk": 64, "v": 64, "ffn": 1536, "heads": 6, "embed": 384}
    kept = {axis: np.array(of_axis(planned, axis)) / whole[axis] for axis in axes}
    for axis in INNER:
        assert np.ptp(kept[axis]) <= multiples[axis] + 1e-9
    # and axes differ by no more than the coarser one's multiple, where what hurts is not asked for
    for a, b in itertools.combinations(axes, 2):
        apart = abs(kept[a].mean() - kept[b].mean())
        assert apart <= max(multiples[a], multiples[b]) + multiples["embed"], (a, b)
    hurts = {name: curve[::-1].max() - curve[::-1] for name, curve in deit_s.damage.items()}
    other = plan(
        dataclasses.replace(deit_s, damage=hurts), Recipe(budget={"keep_macs": share}, allocation="uniform", axes=axes)
    )
    assert widths_of(other) == widths_of(planned)


def given_up(planned, analysis, axis):
    """Share of what the axis costs in the source; in these networks a unit costs the same in every block."""
    return 1 - sum(of_axis(planned, axis)) / sum(w for name, w in analysis.widths.items() if name.endswith(axis))


@pytest.mark.parametrize(
    "rules", [{}, {"ffn": {"blocks": "0-5", "freeze": True}}, {"qk": {"floor": 32}}], ids=["free", "half", "floor"]
)
@pytest.mark.parametrize("share", [0.7, 0.8])
def test_per_axis_takes_the_same_share_of_each(deit_s, share, rules):
    planned = plan(deit_s, Recipe(budget={"keep_macs": share}, allocation="per-axis", rules=rules))
    shares = [given_up(planned, deit_s, axis) for axis in INNER]
    assert min(shares) > 0.1
    assert max(shares) - min(shares) <= 1.5 * 8 / (64 * 12)  # steps of qk and v


def test_per_axis_counts_what_a_cliff_takes(deit_s):
    # on either side of half the width, a first unit less hurts most: values go by halves
    half = np.linspace(0, 1, 33) ** 4
    cliff = np.append(4 - 3 * half[:-1], 1 - half)
    analysis = make_analysis(**DEIT_S, curves={f"blocks.{i}.v": (1 + i / 12) * cliff for i in range(12)})
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.75}, allocation="per-axis"))
    assert set(of_axis(planned, "v")) == {32, 64}
    assert of_axis(planned, "v") == sorted(of_axis(planned, "v"))
    shares = [given_up(planned, analysis, axis) for axis in INNER]
    assert max(shares) - min(shares) <= 1.5 * 32 / (64 * 12)


def test_per_axis_compares_inside_an_axis_only():
    # in block 1 everything matters a thousand times more, and values a million times more than the rest
    curves = {}
    for i, axis in itertools.product(range(2), INNER):
        width = 512 if axis == "ffn" else 64
        size = 1000.0**i * (1e6 if axis == "v" else 1)
        curves[f"blocks.{i}.{axis}"] = size * np.linspace(1, 0, width + 1) ** 2
    analysis = make_analysis(B=2, D=128, H=2, K=64, F=512, N=50, curves=curves)
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.75}, allocation="per-axis"))
    for axis in INNER:
        first, second = of_axis(planned, axis)
        assert first < second
    assert given_up(planned, analysis, "v") == pytest.approx(given_up(planned, analysis, "qk"), abs=8 / 128)


def test_per_axis_takes_what_is_free_first():
    curve = np.maximum(np.linspace(1, -1, 1537), 0)  # the upper half costs nothing
    analysis = make_analysis(**DEIT_S, curves={"blocks.4.ffn": curve})
    planned = plan(analysis, Recipe(budget={"keep_macs": 0.98}, allocation="per-axis", axes=("ffn",)))
    assert planned.damage == 0
    assert [i for i, width in enumerate(of_axis(planned, "ffn")) if width < 1536] == [4]
