"""What layers and moves do to labels: which places of which parameters stay or go together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prune_realloc.tracing.classes import Classes, classes
from prune_realloc.tracing.run import traced

IMAGE = (1, 3, 4, 4)


class Net(nn.Module):
    """Layers by name, and a forward pass that is given."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.way = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def found(way: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> Classes:
    return classes(traced(Net(way, **layers).eval(), IMAGE))


def beside(found: Classes, name: str, dim: int, place: int) -> dict[tuple[str, int], list[int]]:
    """The places that stay or go with one: (parameter, dimension) -> places."""
    number = next(n for n, places in found.positions.items() if (name, dim, place) in places)
    held: dict[tuple[str, int], list[int]] = {}
    for parameter, along, at in found.positions[number]:
        held.setdefault((parameter, along), []).append(at)
    return held


def is_free(found: Classes, name: str, dim: int, place: int) -> bool:
    number = next(n for n, places in found.positions.items() if (name, dim, place) in places)
    return number not in found.frozen


def conv(inside: int, outside: int, size: int = 1, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, bias=False, **kwargs)


class Gain(nn.Module):
    """One number, without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.weight) * self.weight.exp()


def test_a_parameter_without_a_dimension_is_of_no_channel():
    net = found(lambda m, x: m.c(m.gain(m.a(x))), a=conv(3, 4), gain=Gain(), c=conv(4, 2))
    assert beside(net, "a.weight", 0, 2) == {("a.weight", 0): [2], ("c.weight", 1): [2]}
    assert is_free(net, "a.weight", 0, 2)


def test_depthwise_convolution_hands_a_channel_on():
    net = found(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 4), b=conv(4, 4, 3, groups=4), c=conv(4, 2))
    assert beside(net, "a.weight", 0, 2) == {("a.weight", 0): [2], ("b.weight", 0): [2], ("c.weight", 1): [2]}
    assert is_free(net, "a.weight", 0, 2)


def test_depthwise_convolution_with_several_filters_a_channel():
    net = found(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 2), b=conv(2, 4, groups=2), c=conv(4, 2))
    assert beside(net, "a.weight", 0, 1) == {("a.weight", 0): [1], ("b.weight", 0): [2, 3], ("c.weight", 1): [2, 3]}


def test_groups_lose_the_same_places():
    net = found(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 4), b=conv(4, 6, groups=2), c=conv(6, 2))
    assert beside(net, "a.weight", 0, 1) == {("a.weight", 0): [1, 3], ("b.weight", 1): [1]}
    assert beside(net, "b.weight", 0, 1) == {("b.weight", 0): [1, 4], ("c.weight", 1): [1, 4]}


def test_statistics_of_a_batch_norm_go_with_its_channels():
    net = found(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 4), n=nn.BatchNorm2d(4), b=conv(4, 2))
    names = {name for name, _ in beside(net, "a.weight", 0, 3)}
    assert names == {"a.weight", "n.weight", "n.bias", "n.running_mean", "n.running_var", "b.weight"}


def test_gate_of_squeeze_and_excitation_goes_with_what_it_scales():
    def way(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x * m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid())

    net = found(way, a=conv(3, 4), down=conv(4, 2), up=conv(2, 4), b=conv(4, 2))
    together = {("a.weight", 0): [1], ("down.weight", 1): [1], ("up.weight", 0): [1], ("b.weight", 1): [1]}
    assert beside(net, "a.weight", 0, 1) == together
    assert beside(net, "down.weight", 0, 1) == {("down.weight", 0): [1], ("up.weight", 1): [1]}


def test_sum_of_two_layers_ties_their_channels():
    net = found(lambda m, x: m.c(m.a(x) + m.b(x)), a=conv(3, 4), b=conv(3, 4), c=conv(4, 2))
    assert beside(net, "a.weight", 0, 2) == {("a.weight", 0): [2], ("b.weight", 0): [2], ("c.weight", 1): [2]}


def test_channels_that_lie_side_by_side_are_not_tied():
    net = found(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 4), b=conv(3, 2), c=conv(6, 2))
    assert beside(net, "a.weight", 0, 1) == {("a.weight", 0): [1], ("c.weight", 1): [1]}
    assert beside(net, "b.weight", 0, 1) == {("b.weight", 0): [1], ("c.weight", 1): [5]}


def test_patches_that_are_merged_hold_a_channel_four_times():
    def way(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).permute(0, 2, 3, 1)
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return m.b(torch.cat(parts, -1))

    net = found(way, a=conv(3, 5), b=nn.Linear(20, 2))
    assert beside(net, "a.weight", 0, 3) == {("a.weight", 0): [3], ("b.weight", 1): [3, 8, 13, 18]}


def test_channels_that_are_shuffled():
    def way(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).reshape(1, 2, 3, 4, 4).transpose(1, 2).reshape(1, 6, 4, 4)
        return m.b(x)

    net = found(way, a=conv(3, 6), b=conv(6, 2))
    assert [beside(net, "a.weight", 0, n)["b.weight", 1] for n in range(6)] == [[0], [2], [4], [1], [3], [5]]


def test_channels_that_become_places():
    net = found(lambda m, x: m.b(nn.functional.pixel_shuffle(m.a(x), 2)), a=conv(3, 8), b=conv(2, 3))
    assert beside(net, "a.weight", 0, 5) == {("a.weight", 0): [4, 5, 6, 7], ("b.weight", 1): [1]}


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_pooling_keeps_channels(pool: nn.Module):
    net = found(lambda m, x: m.b(m.pool(m.a(x)).flatten(1)), a=conv(3, 4), pool=pool, b=nn.Linear(16, 2))
    assert beside(net, "a.weight", 0, 2) == {("a.weight", 0): [2], ("b.weight", 1): [8, 9, 10, 11]}
    assert is_free(net, "a.weight", 0, 2)


def test_norm_over_parts_of_the_channels_keeps_them_whole():
    def net(groups: int) -> Classes:
        return found(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 4), n=nn.GroupNorm(groups, 4), b=conv(4, 2))

    assert is_free(net(1), "a.weight", 0, 1)
    assert not is_free(net(2), "a.weight", 0, 1)


def test_softmax_over_channels_keeps_them_whole():
    net = found(lambda m, x: m.b(m.a(x).softmax(1)), a=conv(3, 4), b=conv(4, 2))
    assert not is_free(net, "a.weight", 0, 1)


def test_images_and_outputs_stay():
    net = found(lambda m, x: m.b(m.a(x)), a=conv(3, 4), b=conv(4, 2))
    assert not is_free(net, "a.weight", 1, 0)
    assert not is_free(net, "b.weight", 0, 0)


def test_layers_of_computed_weights_cost_what_they_cost():
    """Nine numbers of three channels, standardised, for each of 4 channels at 16 places; and a linear layer on 4."""

    def way(m: Net, x: Tensor) -> Tensor:
        weight = m.a.weight / m.a.weight.std()
        x = nn.functional.conv2d(x, weight, padding=1).mean((2, 3))
        return nn.functional.linear(x, m.b.weight.tanh())

    record = traced(Net(way, a=conv(3, 4, 3), b=nn.Linear(4, 5)).eval(), IMAGE)
    assert record.computed == 9 * 3 * 4 * 16 + 4 * 5
