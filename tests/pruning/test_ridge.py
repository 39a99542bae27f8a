"""The ridge that images choose which a fit has not seen."""

import numpy as np
import pytest
import torch
from torch import nn

from prune_realloc.pruning.fit import fit_
from prune_realloc.pruning.moments import Regression
from prune_realloc.pruning.ridge import RIDGES, Choice, Explained, Halves, explained


def data_of(images, noise, seed=0, wide=12, tall=4):
    """Rows of so many images of three tokens, a layer, and what it should put out: far from what it does."""
    generator = torch.Generator().manual_seed(seed)
    x, noises = (torch.randn(images, 3, n, generator=generator, dtype=torch.float64) for n in (wide, tall))
    goal = torch.randn(wide, tall, generator=generator, dtype=torch.float64)
    torch.manual_seed(seed)
    return nn.Linear(wide, tall).double(), x + 2, x @ goal + noise * noises + 1


def halves_of(x, t, weight=None, size=5):
    moments = Halves()
    for a, b in zip(x.split(size), t.split(size), strict=True):
        moments.add(len(a), a, b, weight)
    return moments


@pytest.mark.parametrize("size", [1, 3, 40])
def test_halves_are_of_every_other_image_however_they_are_batched(size):
    _, x, t = data_of(40, 0.1)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    moments, even, every = halves_of(x, t, weight, size), Regression(), Regression()
    even.add(x[::2], t[::2], weight)
    every.add(x, t, weight)
    for name in vars(even):
        torch.testing.assert_close(getattr(moments.parts[0], name), getattr(even, name))
        torch.testing.assert_close(getattr(moments.whole(), name), getattr(every, name))


@pytest.mark.parametrize("bias", [True, False])
def test_the_chosen_ridge_has_the_lowest_error_on_the_other_half(bias):
    """Each candidate fitted by `fit_` and judged row by row."""
    layer, x, t = data_of(20, 3.0)
    if not bias:
        layer = nn.Linear(12, 4, bias=False).double()
    errors = {}
    for ridge in (None, *RIDGES):
        errors[ridge] = 0.0
        for at in (0, 1):
            own, fitted = nn.Linear(12, 4, bias=bias).double(), Regression()
            own.load_state_dict(layer.state_dict())
            fitted.add(x[at::2], t[at::2], None)
            with torch.no_grad():
                fit_(own, fitted, ridge)
                errors[ridge] += float((own(x[1 - at :: 2]) - t[1 - at :: 2]).square().mean())
    assert halves_of(x, t).choice(layer, None).ridge == min(errors, key=errors.get)


def test_noise_and_few_images_ask_for_more_ridge():
    chosen = []
    for images, noise in ((400, 0.0), (30, 3.0), (4, 30.0)):
        layer, x, t = data_of(images, noise)
        ridge = halves_of(x, t).choice(layer, None).ridge
        chosen.append(np.inf if ridge is None else ridge)
    assert chosen == sorted(chosen)
    assert chosen[0] == RIDGES[0]
    assert chosen[-1] > 0.1


def test_one_image_leaves_the_weights():
    layer, x, t = data_of(1, 0.0)
    assert halves_of(x, t).choice(layer, None) is None


def test_errors_on_both_halves_row_by_row():
    layer, x, t = data_of(20, 1.0)
    choice = halves_of(x, t).choice(layer, None)
    own = other = constant = 0.0
    for at in (0, 1):
        fit, moments = nn.Linear(12, 4).double(), Regression()
        fit.load_state_dict(layer.state_dict())
        moments.add(x[at::2], t[at::2], None)
        with torch.no_grad():
            fit_(fit, moments, choice.ridge)
            own += float((fit(x[at::2]) - t[at::2]).square().sum(-1).mean())
            other += float((fit(x[1 - at :: 2]) - t[1 - at :: 2]).square().sum(-1).mean())
        constant += float((t[at::2] - t[at::2].mean((0, 1))).square().sum(-1).mean())
    assert (choice.fitted, choice.unseen, choice.without) == pytest.approx((own, other, constant))


def test_what_is_explained_is_a_mean_over_the_layers_that_are_asked_for_anything():
    layers = [Choice(0.1, 1.0, 2.0, 4.0), Choice(None, 0.0, 1.0, 2.0), Choice(None, 0.0, 0.0, 0.0)]
    assert explained(layers) == Explained(fitted=1 - 0.125, unseen=0.5)
    assert explained(layers[2:]) is None


def test_more_images_close_the_gap_between_the_halves():
    gaps = []
    for images in (10, 40, 400):
        layer, x, t = data_of(images, 3.0)
        found = explained([halves_of(x, t).choice(layer, None)])
        gaps.append(found.fitted - found.unseen)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1 > gaps[-1] > 0
