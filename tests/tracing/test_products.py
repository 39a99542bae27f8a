"""What products of activations cost, before and after a cut."""

import pytest
import torch
from torch import Tensor, nn

from prune_realloc.core.cost import total_cost
from prune_realloc.families import traced
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.pruning.sites import widths
from prune_realloc.runtime.networks import measured_macs


class LinearAttention(nn.Module):
    """Attention without a softmax; a column of ones beside the values gives what the rest is divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v = nn.LayerNorm(12), *(nn.Linear(12, 8) for _ in range(3))
        self.proj = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).reshape(len(x), -1, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = q.relu() @ (k.relu().transpose(-1, -2) @ nn.functional.pad(v, (0, 1), value=1.0))
        out = out[..., :-1] / (out[..., -1:] + 1e-6)
        return x + self.proj(out.transpose(1, 2).reshape(len(x), -1, 8))


class Net(nn.Module):
    num_classes, input_size = 5, (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 12, 2, 2), nn.Sequential(LinearAttention(), LinearAttention())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("cut", [("v",), ("v.1",), ("v", "v.1"), ("embed",)], ids=str)
def test_a_column_of_ones_beside_the_values_is_counted_after_a_cut(cut):
    torch.manual_seed(0)
    net, images = Net().eval(), torch.randn(1, 3, 8, 8)
    structure = traced.describe(net)
    left = {s.name: s.width // 2 if s.name.endswith(cut) else s.width for s in structure.sites}
    assert left != widths(structure.sites)
    smaller = cut_to_widths(net, left)
    assert total_cost(structure.terms, left).macs == measured_macs(smaller, images)
    assert total_cost(structure.terms, widths(structure.sites)).macs == measured_macs(net, images)
