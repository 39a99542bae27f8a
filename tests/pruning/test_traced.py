"""Laws of networks that no family declares: the way along their streams, fold, rotation and refit."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from support.moments import Case, batches_of, curves_of, error, folded, measured
from torch import Tensor, nn

from prune_realloc.families import traced
from prune_realloc.pruning.cut import cut, cut_to_widths, widths_left
from prune_realloc.pruning.damage import kept_units
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.sites import find_sites, stream_sites

SIZE = 64
NETWORKS = ("conv blocks", "efficientvit_b0")


class Half(nn.Module):
    """x + gamma * project(act(norm(expand(x)))), or a depthwise convolution in the way where it is not added."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.project, self.gamma = nn.Conv2d(hidden, width, 1), nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.project(torch.relu(self.norm(self.expand(x))))


class Mixed(Half):
    """The same, but what it has added is mixed before it is given out."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))


class Blocks(nn.Module):
    """Two streams; a block on the second gives out no sum."""

    input_size = (3, 16, 16)
    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8))
        self.first = nn.Sequential(Half(8, 12), Half(8, 12))
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.second = nn.Sequential(Mixed(16, 20), Half(16, 20))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.down(self.first(self.stem(x)))).mean((2, 3)))


@cache
def network(name: str) -> Any:
    """Cached, so it must be left as it is."""
    torch.manual_seed(0)
    model: Any = Blocks() if name == "conv blocks" else timm.create_model(name, num_classes=5)
    if name != "conv blocks":
        model.input_size = (3, SIZE, SIZE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for key, p in model.named_parameters():
            if "gamma" in key or "layer_scale" in key:
                p.uniform_(0.5, 1.5, generator=generator)
    return model.double().eval()


def images_of(model: Any, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *model.input_size, generator=generator, dtype=torch.float64)


@cache
def case_of(name: str) -> Case:
    model = folded(copy.deepcopy(network(name)))
    return measured(model, batches_of(images_of(model, 12), 6)).rotated()


@pytest.mark.parametrize("name", [*NETWORKS, "poolformer_s12"])
def test_the_way_along_the_streams_is_the_network(name):
    model = network(name)
    x = images = images_of(model, 2)
    branches = traced.describe(model).branches
    with torch.no_grad():
        for stream in stream_sites(find_sites(model)):
            x = traced.stream_input(model, stream, x)
            for branch in (each for each in branches if each.stream == stream):
                x = traced.lead(model, branch, x)
                x = x + traced.branch_output(model, branch, x)
        torch.testing.assert_close(traced.head_output(model, x), model(images), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_fold_and_rotation_leave_the_function(name):
    model, images = network(name), images_of(network(name), 2)
    with torch.no_grad():
        torch.testing.assert_close(case_of(name).model(images), model(images), rtol=1e-5, atol=1e-7)


def test_raw_scales_go_into_the_layer_before_them():
    model = folded(copy.deepcopy(network("conv blocks")))
    assert all((half.gamma == 1).all() for half in (*model.first, *model.second))
    assert not torch.equal(model.first[0].project.weight, network("conv blocks").first[0].project.weight)


def test_a_block_that_gives_out_no_sum_is_fitted_without_its_stream():
    structure = traced.describe(network("conv blocks"))
    posts = {branch.writer: branch.post_norm for branch in structure.branches}
    assert posts["second.0.project"]
    assert not posts["second.1.project"]
    assert "block" not in {site.axis for site in structure.sites if site.block == 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_refit_of_an_uncut_network_leaves_the_function(name):
    case = case_of(name)
    images = images_of(case.model, 12)
    same = copy.deepcopy(case.model)
    with torch.no_grad():
        refit_(same, case.model, case.sites, {}, case.token_weights, batches_of(images, 6), ridge=True)
        torch.testing.assert_close(same(images), case.model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axes", [("qk", "v", "ffn", "hidden"), ("embed",)], ids=["inside", "streams"])
@pytest.mark.parametrize("name", NETWORKS)
def test_refit_brings_the_output_nearer_to_the_sources(name, axes):
    case = case_of(name)
    images = images_of(case.model, 12)
    widths = {site.name: max(1, site.width * 3 // 4) if site.axis in axes else site.width for site in case.sites}
    keep = kept_units(curves_of(case), widths, case.sites)
    pruned = cut(case.model, case.sites, keep)
    before = error(pruned, case.model, images)
    refit_(pruned, case.model, case.sites, keep, case.token_weights, batches_of(images, 6), ridge=True)
    assert np.isfinite(before)
    assert error(pruned, case.model, images) < 0.5 * before


def test_copies_share_what_was_found_and_other_widths_do_not():
    model = network("conv blocks")
    assert traced.describe(copy.deepcopy(model)) is traced.describe(model)
    site = next(site for site in find_sites(model) if site.axis in ("ffn", "hidden"))
    smaller = cut(model, find_sites(model), {site.name: np.arange(4)})
    assert traced.describe(smaller) is not traced.describe(model)


class Twice(Blocks):
    """Its blocks run twice, so there is no chain of units."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self.first(self.stem(x))).mean((2, 3)).repeat(1, 2))


def test_where_the_way_cannot_be_followed_nothing_is_refitted():
    torch.manual_seed(0)
    model = Twice().double().eval()
    structure = traced.describe(model)
    assert structure.branches == ()
    assert any("refitted" in note for note in structure.notes)
    same = copy.deepcopy(model)
    refit_(same, model, find_sites(model), {}, {}, batches_of(images_of(model, 4)), ridge=True)
    images = images_of(model, 2)
    torch.testing.assert_close(same(images), model(images))


def test_what_was_cut_twice_has_the_shapes_that_the_source_is_cut_to():
    """Blocks move up and sites may have other names once some units are gone; the source's names stay."""
    model = network("conv blocks")
    first = find_sites(model)
    gone = next(site for site in first if site.axis == "block")
    half = {site.name: np.arange(site.units // 2) for site in first if site.axis == "ffn"}
    smaller = cut(model, first, half | {gone.name: np.arange(0)})
    again = find_sites(smaller)
    smaller = cut(smaller, again, {site.name: np.arange(1, site.units) for site in again if site.axis != "block"})
    left = widths_left(smaller, model)
    assert left.keys() == {site.name for site in first}
    assert left[gone.name] == left[f"{gone.name}.ffn"] == 0
    assert left["blocks.1.ffn"] == 5
    rebuilt = cut_to_widths(model, left)
    assert {n: p.shape for n, p in rebuilt.state_dict().items()} == {
        n: p.shape for n, p in smaller.state_dict().items()
    }


def test_half_precision_does_not_hide_the_way():
    net = network("conv blocks")
    found = {dtype: traced.describe(copy.deepcopy(net).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    assert [*map(str, found[torch.bfloat16].branches)] == [*map(str, found[torch.float32].branches)]
    assert found[torch.bfloat16].notes == found[torch.float32].notes
