"""Cut equals mask, verified where it is not declared."""

import numpy as np
import pytest
import torch
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.pruning import law
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.law import check_cut_equals_mask
from prune_realloc.pruning.sites import find_sites


class Net(nn.Module):
    """Two residual FFNs on the tokens of a patch embedding."""

    input_size = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 4, 4)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x).flatten(2).mT).mean(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(self.fc1(x).relu())


def keep_half(sites: tuple) -> dict[str, np.ndarray]:
    return {site.name: np.arange(site.units // 2) for site in sites if site.axis == "ffn"}


def test_a_right_cut_passes() -> None:
    net = Net().eval()
    check_cut_equals_mask(net, find_sites(net), keep_half(find_sites(net)))


def test_a_wrong_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net().eval()
    sites = find_sites(net)
    wrong = {name: units + 8 for name, units in keep_half(sites).items()}
    monkeypatch.setattr(law, "cut", lambda model, every, keep: cut(model, every, wrong))
    with pytest.raises(InputError, match=r"axes: ffn .* leave ffn out"):
        check_cut_equals_mask(net, sites, keep_half(sites))
