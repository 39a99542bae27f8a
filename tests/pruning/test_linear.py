"""Linear layers and convolutions alike."""

import numpy as np
import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from prune_realloc.pruning.fit import fit_
from prune_realloc.pruning.linear import (
    input_weight,
    inputs,
    is_layer,
    kernel_entries,
    layer_at,
    matrix,
    norm_at,
    positions,
    scale_undone,
    set_,
)
from prune_realloc.pruning.moments import Regression

CONVOLUTIONS = {
    "one entry": {"kernel_size": 1},
    "one entry, every other position": {"kernel_size": 1, "stride": 2},
    "one entry, padded": {"kernel_size": 1, "padding": 1},
    "square": {"kernel_size": 3, "padding": 1},
    "oblong": {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
    "wide": {"kernel_size": 3, "dilation": 2, "stride": 2},
    "same": {"kernel_size": 4, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolution(name="square", seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Conv2d(3, 4, bias=bias, **CONVOLUTIONS[name]).double()


def test_a_small_convolution_by_hand():
    layer = nn.Conv2d(2, 1, (1, 2), bias=False)
    x = torch.tensor([[[[1.0, 2, 3]], [[4.0, 5, 6]]]])
    # two positions; of each channel what lies under the two entries
    assert inputs(layer, x).tolist() == [[[1, 2, 4, 5], [2, 3, 5, 6]]]
    assert positions(layer, x).tolist() == [[[1, 4], [2, 5], [3, 6]]]
    with torch.no_grad():
        set_(layer, torch.tensor([[1.0, 10, 100, 1000]]))
    assert layer.weight.tolist() == [[[[1, 10]], [[100, 1000]]]]
    assert matrix(layer).tolist() == [[1, 10, 100, 1000]]
    assert positions(layer, layer(x)).tolist() == [[[5421], [6532]]]
    assert kernel_entries(layer) == 2
    # three positions of the input -> two patches
    assert input_weight(layer, torch.tensor([1.0, 3, 8]), x).tolist() == [2, 5.5]


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # how torch does it costs a copy
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_times_matrix_are_the_output(name):
    layer, x = convolution(name), drawn(2, 3, 7, 9)
    rows = inputs(layer, x)
    torch.testing.assert_close(rows @ matrix(layer).T + layer.bias, positions(layer, layer(x)))
    weight = input_weight(layer, torch.full((63,), 0.7, dtype=torch.float64), x)
    filled = inputs(layer, 1 + 0 * x)[0].any(1)  # a patch may hold nothing of the image
    torch.testing.assert_close(weight, 0.7 * filled.double())


def test_a_linear_layer_is_seen_as_it_is():
    layer, x = nn.Linear(3, 4).double(), drawn(2, 5, 3)
    assert inputs(layer, x) is x
    assert positions(layer, x) is x
    weight = drawn(5)
    assert input_weight(layer, weight, x) is weight
    assert torch.equal(matrix(layer), layer.weight)
    assert kernel_entries(layer) == 1


def test_a_pointwise_convolution_is_the_linear_layer():
    layer, x = convolution("one entry"), drawn(2, 3, 4, 5)
    linear = nn.Linear(3, 4).double()
    with torch.no_grad():
        set_(linear, matrix(layer))
        linear.bias.copy_(layer.bias)
    moments, other = Regression(), Regression()
    goal, weight = drawn(2, 4, 4, 5, seed=1), drawn(20, seed=2).square()
    moments.add(inputs(layer, x), positions(layer, goal), weight)
    other.add(inputs(linear, x.movedim(1, -1)), positions(linear, goal.movedim(1, -1)), weight)
    with torch.no_grad():
        fit_(layer, moments, 0.01)
        fit_(linear, other, 0.01)
    torch.testing.assert_close(matrix(layer), linear.weight, rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.bias, linear.bias, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name != "one entry, padded"])
def test_regression_recovers_the_weights_of_a_convolution(name):
    x, goal, layer = drawn(20, 3, 7, 9) + 2, convolution(name, seed=1), convolution(name, seed=2)
    moments = Regression()
    with torch.no_grad():
        moments.add(inputs(layer, x), positions(layer, goal(x)), None)
        fit_(layer, moments, 1e-13)
    torch.testing.assert_close(layer.weight, goal.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.bias, goal.bias, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ridge", [1e-13, None])
def test_the_intercept_of_a_convolution_without_bias_goes_to_the_norm_behind_it(ridge):
    layer, norm, x = convolution(bias=False), nn.BatchNorm2d(4).double().eval(), drawn(20, 3, 7, 9) + 2
    goal, shift = convolution(seed=1 if ridge else 0), drawn(4, seed=3)
    with torch.no_grad():
        norm.running_mean.copy_(drawn(4, seed=1))
        norm.running_var.copy_(drawn(4, seed=2).square())
        norm.weight.copy_(drawn(4, seed=4))
        expected = norm(goal(x) + shift[:, None, None])
        moments = Regression()
        moments.add(inputs(layer, x), positions(layer, goal(x)), None)
        fit_(layer, moments, ridge, shift, norm)
    torch.testing.assert_close(norm(layer(x)), expected, rtol=1e-8, atol=1e-8)


def test_scale_undone_by_hand():
    norm = nn.BatchNorm2d(4, eps=1.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0, 0.0009, 0.0]))
        norm.running_var.copy_(torch.tensor([3.0, 0.0, 0.0, 8.0]))
    # scales 2 / sqrt(4), -1 / sqrt(1); the third is less than a thousandth of the largest, the last is none
    assert scale_undone(norm).tolist() == [1, -1, 0, 0]
    with torch.no_grad():
        norm.weight.zero_()
    assert scale_undone(norm).tolist() == [0, 0, 0, 0]
    assert scale_undone(nn.BatchNorm1d(2, eps=3.0, affine=False)).tolist() == [2, 2]


def test_what_is_a_layer():
    grouped, padding = nn.Conv2d(4, 4, 3, groups=2), Conv2dSame(3, 4, 3)
    model = nn.Sequential(nn.Linear(3, 4), convolution(), grouped, padding, nn.BatchNorm2d(4), nn.LayerNorm(4))
    assert [is_layer(module) for module in model] == [True, True, False, False, False, False]
    assert layer_at(model, "1") is model[1]
    for name in ("2", "3", "4"):
        with pytest.raises(AssertionError, match=name):
            layer_at(model, name)
    assert norm_at(model, "4") is model[4]
    assert norm_at(model, None) is None
    with pytest.raises(AssertionError, match="5"):
        norm_at(model, "5")


def test_weights_of_patches_leave_the_padding_out():
    layer, x = nn.Conv2d(1, 1, 3, padding=1), drawn(1, 1, 2, 2)
    weight = input_weight(layer, torch.tensor([1.0, 2, 3, 6]), x)
    np.testing.assert_allclose(weight, [3, 3, 3, 3])
