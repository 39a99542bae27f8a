from collections import Counter
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from prune_realloc.families import traced
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import masked
from prune_realloc.tracing.apart import most_layers_within


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Pair(nn.Module):
    """A block of two streams, each of which also gets what the other holds."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.over = Mlp(8), Mlp(6), nn.Linear(8, 6)

    def forward(self, a, b):
        a = a + self.left(a)
        return a, b + self.right(b) + self.over(a)


class Two(nn.Module):
    """No chain leads through it: two tensors carry the images all the way."""

    input_size = (3, 8, 8)
    num_classes = 5

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.ModuleList(Pair() for _ in range(3))
        self.head = nn.Linear(6, 5)

    def forward(self, images):
        a, b = (part(images).flatten(2).transpose(1, 2) for part in (self.fine, self.coarse))
        for block in self.blocks:
            a, b = block(a, b)
        return self.head(b.mean(1))


def made():
    torch.manual_seed(0)
    return Two().eval()


def test_blocks_of_two_streams_have_their_sites():
    sites = traced.describe(made()).sites
    assert Counter((site.axis, site.units) for site in sites) == {
        ("embed", 8): 1,
        ("embed", 6): 1,
        ("ffn", 16): 3,
        ("ffn", 12): 3,
    }
    assert len({site.name for site in sites}) == 8


def test_their_cut_equals_their_mask():
    net, images = made(), torch.randn(2, 3, 8, 8)
    sites = [site for site in traced.describe(net).sites if site.axis == "ffn"]
    keep = {site.name: np.arange(0, site.units, 2) for site in sites}
    with ExitStack() as stack, torch.no_grad():
        for site in sites:
            stack.enter_context(masked(net, site, np.arange(1, site.units, 2)))
        expected = net(images)
    torch.testing.assert_close(cut(net, sites, keep)(images), expected)


def test_a_chain_through_a_few_layers_is_none():
    record = traced._found(made()).walk.traced.record
    assert len(record.layers) == 18
    assert not most_layers_within(record, ["blocks.0", "head"])
    assert most_layers_within(record, ["blocks.0", "blocks.1"])
