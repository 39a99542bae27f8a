"""The worked example of the contract is a family that works."""

import textwrap
import types
from typing import Any

import numpy as np
import torch
from support.networks import randomise_
from torch import Tensor, nn

from prune_realloc.core.cost import total_cost
from prune_realloc.families import CUTTABLE, base, family_of
from prune_realloc.families.base import CuttableFamily, Family
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs


class ToyBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(x).relu())


class Toy(nn.Module):
    tokens = 16

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 5
        self.stem, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(2))

    def tokens_of(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens_of(images).mean(1))


def example() -> Any:
    """The module that the docstring shows."""
    _, _, text = str(base.__doc__).partition("::\n")
    module = types.ModuleType("toy")
    exec(textwrap.dedent(text), vars(module))
    return module


def members(contract: type) -> set[str]:
    return {name for name in vars(contract) if not name.startswith("_")}


def test_the_example_is_whole():
    scored = {"SUPPORTS", "describe", "example_input", "features"}
    assert members(CuttableFamily) & set(vars(example())) == scored
    assert members(Family) <= set(vars(example()))


def test_the_example_declares_its_network(monkeypatch):
    monkeypatch.setitem(CUTTABLE, "toy", example())
    model: Any = randomise_(Toy())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sites = find_sites(model)
    assert widths(sites) == {"embed": 8, "blocks.0.ffn": 24, "blocks.1.ffn": 24}
    cost = total_cost(family_of(model).describe(model).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.macs == measured_macs(model, images[:1])
    ffn = sites[1]
    with torch.no_grad():
        with masked(model, ffn, range(20, 24)):
            expected = model(images)
        for part in ffn.slices:
            model.get_parameter(part.parameter).index_fill_(part.dim, torch.from_numpy(part.index[20:].ravel()), 0.0)
        torch.testing.assert_close(model(images), expected)
    assert np.array_equal(sites[0].gates[1].index[:, 0], np.arange(8))
