"""The sites of small networks: what their units are, where they are watched, and which blocks may go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Site
from prune_realloc.tracing.candidates import Traced, candidates
from prune_realloc.tracing.classes import classes
from prune_realloc.tracing.find import find_chain, join_units
from prune_realloc.tracing.join import joined
from prune_realloc.tracing.residual import residual_units
from prune_realloc.tracing.run import traced
from prune_realloc.tracing.sites import Sites, sites


def conv(inside: int, outside: int, size: int = 1, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **kwargs)


class ConvNorm(nn.Module):
    """A convolution with its norm."""

    def __init__(self, inside: int, outside: int, size: int = 1, **kwargs: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(inside, outside, size, **kwargs), nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Inverted(nn.Module):
    """Wider, depthwise, narrower; with or without a residual connection around it."""

    def __init__(self, inside: int, outside: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.expand, self.depth = ConvNorm(inside, 2 * inside), ConvNorm(2 * inside, 2 * inside, 3, groups=2 * inside)
        self.project = ConvNorm(2 * inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depth(self.expand(x)))
        return x + y if self.residual else y


class Gated(nn.Module):
    """Scales its channels: it gives out what it takes, but adds nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down, self.up = conv(dim, 2), conv(2, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Pooled(nn.Module):
    """Adds more than its layers do."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up, self.down, self.pool = conv(dim, 6), conv(6, dim), nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pool(x) + self.down(self.up(x).relu())


class MultiScale(nn.Module):
    """Queries, keys and values of two scales side by side, the second made of the first by groups."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        width = dim // heads
        self.width, self.qkv, self.proj = width, conv(dim, 3 * dim), conv(2 * dim, dim)
        self.more = nn.Sequential(conv(3 * dim, 3 * dim, 3, groups=3 * dim), conv(3 * dim, 3 * dim, groups=3 * heads))

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.more(qkv)], 1).reshape(B, -1, 3 * self.width, H * W).transpose(-1, -2)
        q, k, v = both.relu().chunk(3, -1)
        out = q @ (k.transpose(-1, -2) @ v)
        return x + self.proj(out.transpose(-1, -2).reshape(B, -1, H, W))


def network(*body: nn.Module, dim: int = 4, out: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, dim), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 5)).eval()


def found(model: nn.Module) -> tuple[tuple[str, ...], Sites]:
    images = torch.randn(1, 3, 4, 4)
    chain, record = find_chain(model, images), traced(model, (1, 3, 4, 4))
    whole = Traced(record, classes(record), chain.units)
    if parents := joined(whole, residual_units(whole)):
        chain = join_units(model, chain, parents, images)
        whole = Traced(record, whole.classes, chain.units)
    return chain.units, sites(whole, model, candidates(whole), residual_units(whole))


def of(every: Sites, axis: str) -> list[Site]:
    return [site for site in every.every if site.axis == axis]


@pytest.mark.parametrize("residual", [True, False])
def test_convolutions_are_one_block_with_or_without_a_residual(residual: bool):
    units, every = found(network(Inverted(4, 4 if residual else 6, residual=residual), out=4 if residual else 6))
    assert units == ("0", "1")
    (hidden,) = of(every, "hidden")
    assert hidden.units == 8
    assert [gate.module for gate in hidden.gates] == ["1.project.conv"]
    assert {part.parameter for part in hidden.slices} >= {"1.depth.conv.weight", "1.depth.norm.running_var"}
    assert [site.units for site in of(every, "embed")] == ([4] if residual else [4, 6])
    assert len(of(every, "block")) == residual


def test_a_stage_with_a_residual_is_no_unit():
    stage = nn.Sequential(ConvNorm(4, 6), Inverted(6, 6, residual=True))
    units, every = found(network(stage, out=6))
    assert units == ("0", "1.0", "1.1")
    assert [site.units for site in of(every, "embed")] == [4, 6]


def test_what_scales_the_hidden_channels_is_inside_of_their_block():
    class Excited(Inverted):
        def __init__(self) -> None:
            super().__init__(4, 6, residual=False)
            self.gate = Gated(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.project(self.gate(self.depth(self.expand(x))))

    units, every = found(network(Excited(), out=6))
    assert units == ("0", "1")
    assert sorted(site.units for site in of(every, "hidden") + of(every, "ffn")) == [2, 8]
    assert [site.units for site in of(every, "embed")] == [4, 6]


def test_a_block_that_scales_its_input_cannot_go():
    _, every = found(network(Gated(4), Inverted(4, 4, residual=True)))
    assert [site.gates[0].module for site in of(every, "block")] == ["2.project"]


def test_all_that_a_block_adds_is_watched():
    _, every = found(network(Pooled(4)))
    assert {gate.module for gate in of(every, "block")[0].gates} == {"1.pool", "1.down"}


def test_a_block_that_adds_what_cannot_be_watched_cannot_go():
    class Doubled(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return x + nn.functional.avg_pool2d(x, 3, 1, 1) + self.down(self.up(x).relu())

    _, every = found(network(Doubled(4)))
    assert of(every, "block") == []
    assert [site.units for site in of(every, "ffn") + of(every, "hidden")] == [6]


def test_heads_of_two_scales_are_of_one_width():
    _, every = found(network(MultiScale(8, 2), dim=8, out=8))
    (site,) = of(every, "v")
    assert (site.units, site.groups) == (8, 2)  # 4 of each scale, in all heads at once
    sides = {(gate.module, gate.side) for gate in site.gates}
    assert sides == {("1.qkv", "output"), ("1.more", "output"), ("1.more.1", "input"), ("1.proj", "input")}
