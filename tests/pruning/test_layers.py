"""The numbers that layers keep beside their weights, of layers whose weights were cut by hand."""

import pytest
import torch
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.pruning.layers import sync_layers_


def cut_(layer, **shapes):
    """The first numbers of each tensor of the layer, as many as its new shape says."""
    for name, shape in shapes.items():
        old = getattr(layer, name)
        new = old.detach()[tuple(slice(0, n) for n in shape)].clone()
        setattr(layer, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    sync_layers_(layer)
    return layer


@pytest.mark.parametrize(
    ("conv", "weight", "sizes"),
    [
        (nn.Conv2d(8, 6, 3), (4, 5, 3, 3), (5, 4, 1)),
        (nn.Conv2d(8, 8, 3, groups=8), (5, 1, 3, 3), (5, 5, 5)),
        (nn.Conv2d(8, 16, 3, groups=8), (10, 1, 3, 3), (5, 10, 5)),
        (nn.Conv2d(8, 12, 3, groups=2), (6, 3, 3, 3), (6, 6, 2)),
        (nn.Conv2d(8, 12, 3, groups=2), (12, 4, 3, 3), (8, 12, 2)),
        (nn.Conv1d(8, 8, 3, groups=8), (5, 1, 3), (5, 5, 5)),
        (nn.Conv2d(1, 6, 3), (4, 1, 3, 3), (1, 4, 1)),
    ],
    ids=["plain", "depthwise", "depthwise, two each", "grouped", "grouped, whole", "one dimension", "one channel"],
)
def test_convolutions_run_on_the_channels_that_are_left(conv, weight, sizes):
    cut_(conv, weight=weight, bias=weight[:1])
    assert (conv.in_channels, conv.out_channels, conv.groups) == sizes
    image = torch.randn(2, sizes[0], *[6] * (len(weight) - 2))
    assert conv(image).shape[1] == sizes[1]


def test_norms_run_on_the_channels_that_are_left():
    five = dict.fromkeys(("weight", "bias"), (5,))
    batch = cut_(nn.BatchNorm2d(8), **five, running_mean=(5,), running_var=(5,))
    group, groups = cut_(nn.GroupNorm(1, 8), **five), cut_(nn.GroupNorm(2, 8), weight=(6,), bias=(6,))
    layer, prelu = cut_(nn.LayerNorm(8), **five), cut_(nn.PReLU(8), weight=(5,))
    assert (batch.num_features, group.num_channels, groups.num_channels, layer.normalized_shape) == (5, 5, 6, (5,))
    assert prelu.num_parameters == 5
    for norm, channels in ((batch.eval(), 5), (group, 5), (groups, 6), (prelu, 5)):
        assert norm(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


def test_a_batch_norm_without_weights_follows_its_buffers():
    assert cut_(nn.BatchNorm2d(8, affine=False), running_mean=(5,), running_var=(5,)).num_features == 5


def test_a_batch_norm_whose_buffers_were_forgotten_is_our_own_mistake():
    with pytest.raises(AssertionError):
        cut_(nn.BatchNorm2d(8), weight=(5,), bias=(5,))


@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (8, 3, 3, 3)])
def test_a_transposed_convolution_is_refused(shape):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 3, groups=2))
    sync_layers_(net)
    net[1].weight = nn.Parameter(net[1].weight.detach()[: shape[0], : shape[1]])
    with pytest.raises(InputError, match="1: a ConvTranspose2d cannot become narrower; keep all units"):
        sync_layers_(net)
