"""One layer, fitted in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prune_realloc.pruning.fit import fit_
from prune_realloc.pruning.moments import Regression


def random_regression(seed, rows=40, wide=5, tall=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2, wide)) * rng.uniform(0.1, 3, wide) + rng.normal(size=wide)
    t = x[..., :2] @ rng.normal(size=(2, tall)) + rng.normal(size=(rows, 2, tall)) + 5
    weight = rng.uniform(0.1, 2, 2)
    moments = Regression()
    moments.add(*(torch.from_numpy(a) for a in (x, t, weight)))
    each = np.tile(weight, rows) / (rows * weight.sum())
    return moments, x.reshape(-1, wide), t.reshape(-1, tall), each


def layer_of(seed, bias, wide=5, tall=3):
    torch.manual_seed(seed)
    return nn.Linear(wide, tall, bias=bias).double()


def outcome(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


@given(seed=st.integers(0, 10_000), bias=st.booleans(), ridge=st.floats(1e-8, 10))
@settings(deadline=None, max_examples=40)
def test_fit_is_never_worse_than_the_weights_at_hand(seed, bias, ridge):
    moments, x, t, each = random_regression(seed)
    layer = layer_of(seed, bias)

    def loss():
        return float((each[:, None] * (outcome(layer, x) - t) ** 2).sum())

    with torch.no_grad():
        if bias:  # the best bias for the present weights is the mean's business, not the regression's
            fit_(layer, moments, None)
        before = loss()
        fit_(layer, moments, ridge)
    assert loss() <= before * (1 + 1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_fit_equals_ridge_regression_by_stacked_rows(bias):
    """min sum_i w_i |t_i - W x_i|^2 + r |W - W0|^2 solved as one least squares problem."""
    moments, x, t, each = random_regression(3)
    layer = layer_of(3, bias)
    start = layer.weight.detach().numpy().copy()
    mean_x, mean_t = (each @ x, each @ t) if bias else (0 * x[0], 0 * t[0])
    centred = x - mean_x
    share = 0.3
    r = share * np.mean(each @ centred**2)
    rows = np.concatenate([np.sqrt(each)[:, None] * centred, np.sqrt(r) * np.eye(5)])
    goals = np.concatenate([np.sqrt(each)[:, None] * (t - mean_t), np.sqrt(r) * start.T])
    expected = np.linalg.lstsq(rows, goals, rcond=None)[0].T
    with torch.no_grad():
        fit_(layer, moments, share, shift=torch.tensor([1.0, 2.0, 3.0]).double())
    np.testing.assert_allclose(layer.weight.detach(), expected, rtol=1e-9)
    if bias:
        np.testing.assert_allclose(layer.bias.detach(), mean_t + np.arange(1, 4) - expected @ mean_x, rtol=1e-9)
    else:
        assert layer.bias is None


def test_fit_recovers_what_is_linear_in_the_input():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(50, 4, 5)) + 3)
    goal = layer_of(1, True)
    moments = Regression()
    layer = layer_of(2, True)
    with torch.no_grad():
        moments.add(x, goal(x), None)
        fit_(layer, moments, 1e-12)
    torch.testing.assert_close(layer.weight, goal.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.bias, goal.bias, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ridge", [None, 1e-4, 5.0])
def test_fit_makes_the_means_agree(ridge):
    moments, x, t, each = random_regression(5)
    layer = layer_of(5, True)
    before = layer.weight.clone()
    with torch.no_grad():
        fit_(layer, moments, ridge)
    np.testing.assert_allclose(each @ outcome(layer, x), each @ t, rtol=1e-12)
    assert torch.equal(layer.weight, before) == (ridge is None)


def test_a_direction_that_the_data_never_shows_keeps_its_weights():
    layer, x = layer_of(0, True), torch.randn(30, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    x[..., 1] = 7.0  # constant
    x[..., 3] = x[..., 2]  # twice the same
    moments = Regression()
    start = layer.weight.detach().clone()
    with torch.no_grad():
        moments.add(x, torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(1)).double(), None)
        fit_(layer, moments, 1e-4)
    move = layer.weight.detach() - start
    assert move[:, [0, 2, 4]].abs().min() > 1e-3
    torch.testing.assert_close(move[:, 1], torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(move[:, 2], move[:, 3])
