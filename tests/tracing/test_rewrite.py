"""Laws of a cut, on networks by hand that name their channels in all ways: each computes what the masked one does."""

from __future__ import annotations

import math
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import traced
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.law import check_cut_equals_mask

D, H, K = 12, 2, 4  # stream, heads, width of a head


class Net(nn.Module):
    """A convolution, two residual blocks of the same kind, and a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.input_size = getattr(kind, "input_size", (3, 8, 8))
        self.stem = nn.Conv2d(3, D, 2, 2)
        self.blocks = nn.ModuleList(Block(kind()) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Block(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(D), inner

    def forward(self, x):
        return x + self.inner(self.norm(x))


class Fused(nn.Module):
    """Queries, keys and values in one layer, that is reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * H * K), nn.Linear(H * K, D)

    def parts(self, x):
        B, N, _ = x.shape
        return self.qkv(x).reshape(B, N, 3, H, K).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], H * K))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Halved(Fused):
    """Parts by slices and by `split`, the scale from the width that is read off."""

    def parts(self, x):
        q, kv = self.qkv(x).split([H * K, 2 * H * K], dim=-1)
        return [t.unflatten(-1, (H, -1)).transpose(1, 2) for t in (q, kv[..., : H * K], kv[..., H * K :])]

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


class Indexed(Fused):
    """Parts by their number."""

    def parts(self, x):
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, H, K).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]


class Counted(Fused):
    """The number of images by `len`."""

    def parts(self, x):
        return self.qkv(x).reshape(len(x), -1, 3, H, K).permute(2, 0, 3, 1, 4).unbind(0)


class Squared(Fused):
    """The side of the map is the root of the number of tokens."""

    def parts(self, x):
        B, N, _ = x.shape
        side, again = int(N**0.5), round(N**0.5)
        return self.qkv(x).reshape(B, side * again, 3, H, K).permute(2, 0, 3, 1, 4).unbind(0)


class Iterated(Fused):
    """Image by image: the way through it depends on how many there are."""

    def parts(self, x):
        images = [image.reshape(-1, 3, H, K).permute(1, 2, 0, 3) for image in self.qkv(x)]
        return torch.stack(images, dim=1).unbind(0)


class Functional(Fused):
    """The layer's weight is read by the module around it; its bias is put together from parts."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D, 3 * H * K, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(H * K)), nn.Parameter(torch.randn(H * K))
        self.register_buffer("k_bias", torch.zeros(H * K), persistent=False)

    def parts(self, x):
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = F.linear(x, weight=self.qkv.weight, bias=bias)
        return qkv.reshape(x.shape[0], x.shape[1], 3, H, -1).permute(2, 0, 3, 1, 4).unbind(0)


class Cosine(Functional):
    """Queries and keys of length 1; a temperature for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(H, 1, 1) + 2)

    def attend(self, q, k, v):
        return ((F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * self.scale).softmax(-1) @ v


class Rotated(Fused):
    """Positions turn pairs of channels, by tables that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(16.0), torch.arange(1.0, K // 2 + 1)).repeat_interleave(2, 1)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("cos", angle.cos(), persistent=False)

    def attend(self, q, k, v):
        return super().attend(self.turned(q), self.turned(k), v)

    def turned(self, x):
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cos + other * self.sin


class Windows(Fused):
    """Tokens are split into windows while their channels are."""

    def parts(self, x):
        qkv = self.qkv(x).reshape(x.shape[0], 4, 4, 3, H, K)
        return qkv.permute(3, 0, 4, 2, 1, 5).unbind(0)

    def attend(self, q, k, v):
        return super().attend(q, k, v).permute(0, 1, 3, 2, 4).flatten(2, 3)


class Maps(nn.Module):
    """A convolution of many channels and places; the places are laid into one dimension while channels are split."""

    input_size = (3, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(D, 3 * 3 * 16, 1), nn.Linear(3 * 16, D)

    def forward(self, x):
        qkv = self.qkv(x.transpose(1, 2).unflatten(2, (14, 14)))
        q, k, v = qkv.reshape(x.shape[0], 3, 3, 16, -1).permute(1, 0, 2, 4, 3).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Table(Fused):
    """A learned number for each head and pair of places, kept from one pass for the next; ways that depend on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.kept = nn.Parameter(torch.randn(H, 31)), {}
        self.register_buffer("places", torch.arange(16)[:, None] - torch.arange(16)[None] + 15)

    def attend(self, q, k, v):
        if q.shape[2] != self.places.shape[0]:
            raise ValueError("of another size")
        if "bias" not in self.kept:
            self.kept["bias"] = self.table[:, self.places]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.kept["bias"])

    def train(self, mode: bool = True):
        self.kept = {}
        return super().train(mode)


class Channels(Fused):
    """Attention between channels."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.rand(H, 1, 1) + 1)

    def attend(self, q, k, v):
        q, k = (F.normalize(t, dim=2) for t in (q, k))
        weights = (q.transpose(-2, -1) @ k * self.temperature).sigmoid()
        return v @ weights.transpose(-2, -1)


class Interleaved(Fused):
    """The first channel of each head, then the second one of each."""

    def forward(self, x):
        return self.proj(self.attend(*self.parts(x)).permute(0, 2, 3, 1).reshape(*x.shape[:2], H * K))


class Batched(Fused):
    """Heads are images, of which there are so many times as heads."""

    def attend(self, q, k, v):
        q, k, v = (t.reshape(-1, t.shape[2], t.shape[3]) for t in (q, k, v))
        out = (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
        return out.reshape(out.shape[0] // H, H, *out.shape[1:])


class Folded(nn.Module):
    """Places of each channel are folded by numbers that are computed of those of images and channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Conv2d(D, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, D, 1)

    def forward(self, x):
        x = self.up(x.transpose(1, 2).unflatten(2, (4, 4)))
        B, C, h, w = x.shape
        x = x.reshape(B * C * (h // 2), 2, w // 2, 2).transpose(1, 2)
        x = x.reshape(B, C, 4, 4).transpose(1, 3).reshape(B * 4, 4, -1)
        x = self.norm(F.gelu(x)).view(B, 4, 4, -1)
        x = x.transpose(1, 3).reshape(B * C * (h // 2), w // 2, 2, 2)
        x = x.transpose(1, 2).reshape(B, C, h, w)
        return self.down(x).flatten(2).transpose(1, 2)


class Glu(nn.Module):
    """Half of the hidden units gate the others."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 16), nn.Linear(8, D)

    def forward(self, x):
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(a) * b)


class Merged(nn.Module):
    """Images and hidden units in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 8), nn.Linear(8, D)

    def forward(self, x):
        x = self.up(x)
        B, N, C = x.shape
        x = F.relu(x.transpose(1, 2).reshape(B * C, N // 4, 4))
        return self.down(x.reshape(B, C, N).transpose(1, 2))


class Strided(nn.Module):
    """Every second hidden unit gates the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 16), nn.Linear(8, D)

    def forward(self, x):
        x = self.up(x)
        return self.down(x[..., ::2] * x[..., 1::2].sigmoid())


class Unknown(nn.Module):
    """Nothing is known of what happens to the hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 8), nn.Linear(8, D)

    def forward(self, x):
        return self.down(torch.cumsum(self.up(x), -1))


AXES = {
    Fused: {"heads", "qk", "v"},
    Halved: {"heads", "qk", "v"},
    Indexed: {"heads", "qk", "v"},
    Counted: {"heads", "qk", "v"},
    Squared: {"heads", "qk", "v"},
    Functional: {"heads", "qk", "v"},
    Cosine: {"heads", "qk", "v"},
    Rotated: {"heads", "v"},
    Windows: {"heads", "qk", "v"},
    Maps: {"heads", "qk", "v"},
    Table: {"heads", "qk", "v"},
    Interleaved: {"heads", "qk", "v"},
    Batched: {"heads", "qk", "v"},
    Folded: {"ffn"},
    Glu: {"ffn"},
    Merged: {"ffn"},
    Unknown: set(),
}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = Net(kind).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5 + (0.5 if parameter.ndim == 1 else 0))
    return net


def some(sites, axes, seed: int = 0):
    """Half of the units of each site, others in each head; of the second block one less."""
    rng, keep = np.random.default_rng(seed), {}
    for site in sites:
        if site.axis in axes:
            width = max(1, site.width // 2 - (site.block == 1 and site.width > 3))
            runs = [g * site.width + np.sort(rng.choice(site.width, width, replace=False)) for g in range(site.groups)]
            keep[site.name] = np.concatenate(runs)
    return keep


@pytest.mark.parametrize("kind", AXES, ids=lambda kind: kind.__name__)
def test_what_can_be_cut(kind):
    sites = traced.describe(made(kind)).sites
    assert {site.axis for site in sites if site.block is not None} - {"block"} == AXES[kind]


@pytest.mark.parametrize("kind", [kind for kind in AXES if AXES[kind]] + [Channels], ids=lambda kind: kind.__name__)
def test_cut_computes_what_the_masked_network_does(kind):
    net = made(kind)
    x = torch.randn(3, *net.input_size)
    sites = traced.describe(net).sites
    axes = {site.axis for site in sites} - {"embed", "block"}
    assert axes
    for axis in axes:
        keep = some(sites, {axis})
        with ExitStack() as stack, torch.no_grad():
            for site in sites:
                if site.name in keep:
                    stack.enter_context(masked(net, site, set(range(site.units)) - set(keep[site.name].tolist())))
            expected = net(x)
        with torch.no_grad():
            assert (expected - net(x)).abs().max() > 1e-3, axis
            torch.testing.assert_close(cut(net, sites, keep)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [*AXES, Channels], ids=lambda kind: kind.__name__)
def test_what_is_left_trains_costs_what_was_said_and_can_be_cut_again(kind):
    net = made(kind)
    x = torch.randn(2, *net.input_size)
    found = traced.describe(net)
    keep = some(found.sites, {"embed", "heads", "qk", "v", "ffn", "hidden"})
    small = cut(net, found.sites, keep)
    widths = {site.name: len(keep.get(site.name, range(site.units))) // site.groups for site in found.sites}
    assert total_cost(found.terms, widths).params == sum(p.numel() for p in small.parameters())
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = traced.describe(small.eval())
    assert cut(small, again.sites, some(again.sites, {"embed", "v", "ffn"}))(x).isfinite().all()


class Scaled(Interleaved):
    """A number for each of those channels, which is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(H * K), nn.Linear(H * K, D))


def test_heads_between_each_other_that_a_norm_reads_lose_the_same_channels_or_nothing():
    net = made(Scaled)
    sites = traced.describe(net).sites
    same = {site.name: np.array([0, 2, 4, 6]) for site in sites if site.axis == "v"}
    assert cut(net, sites, same)(torch.randn(2, 3, 8, 8)).isfinite().all()
    with pytest.raises(InputError, match=r"blocks.0.inner \(Scaled\): channels of several heads in turn, read by"):
        cut(net, sites, same | {"blocks.0.v": np.array([0, 3, 5, 6])})


def test_other_numbers_of_images_or_an_error():
    net = made(Table)
    sites = traced.describe(net).sites
    small = cut(net, sites, some(sites, {"qk"}))
    assert small(torch.randn(5, 3, 8, 8)).shape == (5, 5)
    with pytest.raises(AssertionError, match="another size"):
        small(torch.randn(1, 3, 4, 4))


def test_a_pass_for_one_number_of_images_is_refused_by_the_law():
    net = made(Iterated)
    sites = traced.describe(net).sites
    keep = some(sites, {"heads"})
    assert cut(net, sites, keep)(torch.randn(2, 3, 8, 8)).shape == (2, 5)  # as many as it is traced with
    with pytest.raises(InputError, match=r"heads of Net cannot be cut: .* does not run on 3 images"):
        check_cut_equals_mask(net, sites, keep)


def test_channels_that_are_taken_by_a_step_stay():
    net = made(Strided)
    sites = traced.describe(net).sites
    with pytest.raises(InputError, match=r"Strided.: channels that are taken by a step"):
        cut(net, sites, some(sites, {"ffn"}))


def test_queries_and_values_of_one_width_may_be_other_ones_of_each_part():
    """What is left of q, k and v is a box again, in which each place of a head is another unit."""
    net, x = made(Indexed), torch.randn(2, 3, 8, 8)
    sites = traced.describe(net).sites
    keep = some(sites, {"qk"}) | some(sites, {"v"}, seed=1)
    with ExitStack() as stack, torch.no_grad():
        for site in sites:
            if site.name in keep:
                stack.enter_context(masked(net, site, set(range(site.units)) - set(keep[site.name].tolist())))
        expected = net(x)
    torch.testing.assert_close(cut(net, sites, keep)(x), expected, rtol=1e-4, atol=1e-5)


def test_keeping_everything_changes_nothing():
    net, x = made(Fused), torch.randn(2, 3, 8, 8)
    assert torch.equal(cut(net, traced.describe(net).sites, {})(x), net(x))
