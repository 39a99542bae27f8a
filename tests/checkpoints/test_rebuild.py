"""What is cut out of a network that is traced comes back with its forward pass, or is not written."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from prune_realloc import cut_to_widths, find_sites, load_pruned, save_pruned
from prune_realloc.checkpoints.rebuild import check_rebuild
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut

D = 12


class Halves(nn.Module):
    """A residual block whose hidden channels go two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 16), nn.Linear(16, D)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(self.norm(x)).split(8, -1)
        return x + self.down(torch.cat([a.relu(), b.tanh()], -1))


class Interleaved(nn.Module):
    """A residual block in whose output the heads lie between each other."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(D), nn.Linear(D, 24), nn.Linear(8, D)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(B, N, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj(out.permute(0, 2, 3, 1).reshape(B, N, 8))


class Toy(nn.Module):
    """Two blocks of one kind."""

    num_classes, num_features, input_size = 5, D, (3, 8, 8)

    def __init__(self, block: type[nn.Module], name: str) -> None:
        super().__init__()
        self.pretrained_cfg = {"architecture": name, "input_size": self.input_size}
        self.stem, self.blocks = nn.Conv2d(3, D, 2, 2), nn.Sequential(block(), block())
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1))


@register_model
def toy_of_halves(pretrained: bool = False, **kwargs: Any) -> Toy:
    return Toy(Halves, "toy_of_halves")


@register_model
def toy_of_interleaved_heads(pretrained: bool = False, **kwargs: Any) -> Toy:
    return Toy(Interleaved, "toy_of_interleaved_heads")


def toy(name: str) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def only(net: nn.Module, axis: str, units: list[int]) -> nn.Module:
    """The network with these units of the sites of one axis."""
    sites = find_sites(net)
    return cut(net, sites, {site.name: np.array(units) for site in sites if site.axis == axis})


def assert_comes_back(net: nn.Module, folder: Any) -> None:
    save_pruned(net, folder)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_pruned(folder)(images), net(images))


UNEVEN = [0, 1, *range(8, 16)]


def test_parts_of_a_site_that_go_different_ways_come_back_as_wide_as_they_were(tmp_path):
    net = only(toy("toy_of_halves"), "ffn", UNEVEN)
    assert check_rebuild(net)["kept"] == {"blocks.0.ffn": UNEVEN, "blocks.1.ffn": UNEVEN}
    assert_comes_back(net, tmp_path / "once")
    assert_comes_back(only(net, "ffn", [1, 2, 3, 8, 9]), tmp_path / "twice")
    assert_comes_back(load_pruned(tmp_path / "twice"), tmp_path / "again")


def test_where_widths_tell_all_the_file_has_nothing_more():
    assert "kept" not in check_rebuild(only(toy("toy_of_halves"), "embed", [1, 2, 5, 7]))


def test_scales_of_zero_hide_nothing():
    net = only(toy("toy_of_halves"), "ffn", UNEVEN)
    for block in net.blocks:
        nn.init.zeros_(block.down.weight)
    assert "kept" in check_rebuild(net)


def test_a_network_of_ones_own_is_cut_to_widths_and_units():
    net = only(toy("toy_of_halves"), "ffn", UNEVEN)
    widths = {"embed": D} | {f"blocks.{n}": 1 for n in range(2)} | {f"blocks.{n}.ffn": 10 for n in range(2)}
    kept = {f"blocks.{n}.ffn": np.array(UNEVEN) for n in range(2)}
    again, images = cut_to_widths(toy("toy_of_halves"), widths, kept), torch.randn(2, 3, 8, 8)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(images), net(images))


def test_a_pass_that_was_changed_otherwise_is_refused(tmp_path):
    net = toy("toy_of_halves")
    net.blocks[1].forward = lambda x: x
    with pytest.raises(InputError, match="computes something else; load it with"):
        save_pruned(net, tmp_path)
    assert not any(tmp_path.iterdir())


def test_attributes_of_the_user_are_left_alone(tmp_path):
    net = toy("toy_of_halves")
    net._left, net._traced = 3, "mine"
    net = only(net, "ffn", UNEVEN)
    assert (net._left, net._traced) == (3, "mine")
    assert_comes_back(net, tmp_path)


def test_the_callers_generator_stays_where_it_is(tmp_path):
    net, state = toy("toy_of_halves"), torch.random.get_rng_state()
    save_pruned(net, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("second", [[0, 1, 3, 4], [1, 2, 3, 5], [0, 2, 4, 5], [0, 3]])
def test_columns_that_changed_places_are_followed_by_the_next_cut(second, tmp_path):
    net = only(only(toy("toy_of_interleaved_heads"), "v", [0, 1, 2, 5, 6, 7]), "v", second)
    assert_comes_back(net, tmp_path)


def test_biases_that_a_pass_with_gradients_left_behind_are_no_obstacle(tmp_path):
    """timm's TinyViT keeps its attention biases in evaluation mode, with their history."""
    args = {"num_classes": 3, "embed_dims": [8, 16, 16, 16], "num_heads": [1, 1, 1, 1]}
    net = timm.create_model("tiny_vit_5m_224", **args).eval()
    net.origin = {"source": "tiny_vit_5m_224", "source_args": args}
    small = cut_to_widths(net, {site.name: site.width for site in find_sites(net)} | {"blocks.0.hidden": 2})
    images = torch.randn(2, 3, 224, 224)
    expected = small(images)
    save_pruned(small, tmp_path / "net")
    with torch.no_grad():
        torch.testing.assert_close(load_pruned(tmp_path / "net")(images), expected)
