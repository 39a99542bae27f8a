"""PyTorch's own attention: exchanged for one that can be cut, or left whole and named with the reason."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from support.standard_attention import D, H, Stem, blocks, encoder, lively, torchvisions
from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.families import traced
from prune_realloc.pruning.cut import cut, cut_to_widths
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs


def unweighed(attention, x):
    return attention(x, x, x, need_weights=False)[0]


def by_name(attention, x):
    return attention(query=x, key=x.flip(-1), value=x, average_attn_weights=False)[0]


class Across(nn.Module):
    """Keys and values of other widths, from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.norm = nn.Linear(D, 6), nn.Linear(D, 10), nn.LayerNorm(D)
        self.attn = nn.MultiheadAttention(D, H, batch_first=True, kdim=6, vdim=10)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attn(y, self.k(y), self.v(y))[0]


NETWORKS = {
    "weights thrown away": blocks,
    "no weights, no bias": lambda: blocks(unweighed, bias=False),
    "tokens first": lambda: blocks(batch_first=False),
    "keys of another tensor": lambda: blocks(by_name),
    "keys and values of other widths": lambda: lively(Stem(Across())),
    "encoder": encoder,
    "encoder, norm first, gelu": lambda: encoder(norm_first=True, activation="gelu"),
    "encoder, tokens first": lambda: encoder(batch_first=False, norm_first=True),
    "encoder without biases": lambda: encoder(bias=False),
    "torchvision": torchvisions,
}


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some(sites, axes):
    """Half of the units of each site, others in each head."""
    rng, keep = np.random.default_rng(0), {}
    for site in sites:
        if site.axis in axes:
            runs = [np.sort(rng.choice(site.width, site.width // 2, replace=False)) for _ in range(site.groups)]
            keep[site.name] = np.concatenate([run + group * site.width for group, run in enumerate(runs)])
    return keep


@torch.no_grad()
def test_an_exchanged_attention_is_the_same_function_and_the_source_stays(net):
    before = {name: (id(p), p._version) for name, p in net.named_parameters()}
    kinds = [type(module) for module in net.modules()]
    ours = traced.adopt(net)
    torch.testing.assert_close(ours(images()), net(images()), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in ours.modules())
    assert traced.adopt(ours) is ours
    assert {name: (id(p), p._version) for name, p in net.named_parameters()} == before
    assert [type(module) for module in net.modules()] == kinds
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in net.parameters())


@torch.no_grad()
def test_cut_equals_mask_and_costs_what_was_said(net):
    ours = traced.adopt(net)
    found = traced.describe(ours)
    blocks = {site.block for site in found.sites if site.block is not None}
    axes = ("heads", "qk", "v", "ffn")
    assert {(site.block, site.axis) for site in found.sites} >= {(block, axis) for block in blocks for axis in axes}
    assert all(branch.fitted and branch.readers for branch in found.branches)
    for axis in axes:
        keep = some(found.sites, {axis})
        with ExitStack() as stack:
            for site in found.sites:
                if site.name in keep:
                    stack.enter_context(masked(ours, site, set(range(site.units)) - set(keep[site.name].tolist())))
            expected = ours(images())
        assert (expected - ours(images())).abs().max() > 1e-3, axis
        small = cut(net, found.sites, keep)
        torch.testing.assert_close(small(images()), expected, rtol=1e-4, atol=1e-5)
        left = widths(found.sites) | {s.name: len(keep[s.name]) // s.groups for s in found.sites if s.name in keep}
        cost = total_cost(found.terms, left)
        assert cost.params == sum(p.numel() for p in small.parameters())
        assert cost.macs == measured_macs(small, images(1))


@torch.no_grad()
def test_to_keep_everything_is_to_change_nothing(net):
    same = cut_to_widths(net, widths(find_sites(net)))
    torch.testing.assert_close(same(images()), net(images()), rtol=1e-4, atol=1e-5)


def test_what_is_left_trains_and_loads_into_one_that_was_built_alike(net):
    sites = find_sites(net)
    keep = some(sites, {"embed", "heads", "qk", "v", "ffn"})
    small = cut(net, sites, keep)
    left = widths(sites) | {s.name: len(keep[s.name]) // s.groups for s in sites if s.name in keep}
    again = cut_to_widths(net, left)
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(images()), small(images()))
    small.train()(images()).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_trained_and_in_its_own_dtype():
    """Modes, types and what asks for gradients are those of the source."""
    net = encoder().double().train()
    net.inner.layers[0].self_attn.in_proj_weight.requires_grad_(False)
    ours = traced.adopt(net)
    first = ours.inner.layers[0].self_attn
    assert first.training
    assert first.q_proj.weight.dtype is torch.float64
    assert not first.v_proj.weight.requires_grad
    assert first.v_proj.bias.requires_grad
    assert net.training


class Own(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def with_mask(attention, x):
    return attention(x, x, x, attn_mask=torch.zeros(16, 16, dtype=torch.bool))[0]


def with_padding(attention, x):
    return attention(x, x, x, key_padding_mask=torch.zeros(len(x), 16))[0]


def weighed(attention, x):
    x, weights = attention(x, x, x)
    return x * weights.amax(-1, keepdim=True)


def alone(attention, x):
    return torch.stack([attention(each, each, each)[0] for each in x])


def parametrized():
    net = blocks()
    for block in net.inner:
        nn.utils.parametrizations.weight_norm(block.attn.out_proj)
    return net


def hooked():
    net = blocks()
    for block in net.inner:
        block.attn.register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: blocks(with_mask), "its attention has a mask"),
        (lambda: blocks(with_padding), "its attention has a mask"),
        (lambda: blocks(weighed), "its attention weights are read"),
        (lambda: blocks(alone), "its attention is called without a dimension of images"),
        (lambda: blocks(add_bias_kv=True), "one more token"),
        (lambda: blocks(add_zero_attn=True), "one more token"),
        (lambda: blocks(kind=Own), "a forward pass of its own"),
        (parametrized, "computed weights"),
        (hooked, "it has hooks"),
    ],
)
def test_what_is_left_whole_is_named_with_the_reason(make, why):
    net = make()
    ours = traced.adopt(net)
    found = traced.describe(ours)
    assert {site.axis for site in found.sites} == {"ffn"}
    assert any("attn" in note and why in note for note in found.notes), found.notes
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), net(images()))
    assert traced.adopt(ours) is ours


def test_one_that_is_left_whole_leaves_the_others_as_they_are():
    net = blocks()
    net.inner[0].call = weighed
    assert {(s.block, s.axis) for s in find_sites(net)} & {(0, "qk"), (1, "qk")} == {(1, "qk")}


def test_a_mask_that_comes_later_is_an_error():
    """Also where the forward pass was written anew, for calls without one."""
    net = blocks()
    sites = find_sites(net)
    for ours in (traced.adopt(net), cut(net, sites, some(sites, {"heads", "qk"}))):
        for call in (with_mask, with_padding):
            ours.inner[0].call = call
            with pytest.raises(ValueError, match="made for calls without masks"):
                ours(images())


class Keeping(nn.Module):
    """Keeps its attention weights where anybody may look at them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(D, H, batch_first=True)

    def forward(self, x):
        out, self.weights = self.attn(x, x, x)
        return x + out


@torch.no_grad()
def test_weights_that_are_kept_are_there_in_the_source_and_none_in_the_other():
    net = lively(Stem(Keeping()))
    expected = net(images())
    before, ours = net.inner.weights, traced.adopt(net)
    torch.testing.assert_close(ours(images()), expected)
    assert ours.inner.weights is None
    assert net.inner.weights is before


def test_what_was_cut_is_cut_again():
    net = encoder()
    sites = find_sites(net)
    small = cut(net, sites, some(sites, {"heads", "qk", "v"}))
    again = find_sites(small)
    with torch.no_grad():
        assert cut(small, again, some(again, {"heads", "qk", "v", "ffn", "embed"}))(images()).isfinite().all()


def test_an_attention_at_two_places_stays_one():
    net = blocks()
    net.inner[1].attn = net.inner[0].attn
    ours = traced.adopt(net)
    assert ours.inner[0].attn is ours.inner[1].attn
