"""Axes that cannot be cut from a network are left out aloud, unless the recipe names them."""

import pytest
import torch
from torch import nn

from prune_realloc import InputError, apply, build_recipe

D, H, K = 16, 2, 8


class ByImage(nn.Module):
    """Attention whose forward pass cannot be written anew for any number of images."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * H * K), nn.Linear(H * K, D)

    def forward(self, x):
        images = [image.reshape(-1, 3, H, K).permute(1, 2, 0, 3) for image in self.qkv(x)]
        q, k, v = torch.stack(images, dim=1).unbind(0)
        out = (q @ k.transpose(-2, -1) * K**-0.5).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.attn, self.mlp = ByImage(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Net(nn.Module):
    input_size, num_classes = (3, 16, 16), 5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Conv2d(3, D, 4, 4), nn.Sequential(Block(), Block())
        self.head = nn.Linear(D, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).flatten(2).mT).mean(1))


ASKED = {"budget": {"keep_macs": 0.7}, "scorer": "magnitude", "rules": {"ffn": {"round_to": 1}}}


def test_axes_that_cannot_be_cut_are_left_out_aloud():
    done = apply(build_recipe(ASKED), model=Net().eval(), timed=False)
    assert done.recipe.axes == ("ffn",)
    notes = [note for note in done.notes if "is left whole" in note]
    assert [note.split(" is left whole: ")[0] for note in notes] == ["axis qk", "axis v"]
    assert done.cost.macs <= 0.7 * done.source_cost.macs
    assert done.network(torch.randn(3, 3, 16, 16)).shape == (3, 5)


def test_an_axis_that_the_recipe_names_is_refused():
    with pytest.raises(InputError, match=r"axes: qk of Net cannot be cut: .*; leave qk out of the recipe's axes"):
        apply(build_recipe(ASKED | {"axes": ["qk", "ffn"]}), model=Net().eval(), timed=False)
