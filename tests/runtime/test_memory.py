import torch
from torch import nn

from prune_realloc.runtime.memory import peak_memory

FLOAT = 4


def test_peak_by_hand():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    weights = 4 * 8 + 8 + 8 * 2 + 2
    # three images of 4 numbers, and while ReLU runs what it takes and what it gives
    assert peak_memory(net, torch.zeros(3, 4)) == FLOAT * (weights + 3 * (4 + 8 + 8))


def test_what_is_no_longer_needed_is_not_counted():
    net = nn.Sequential(*(nn.ReLU() for _ in range(10)))
    assert peak_memory(net, torch.zeros(3, 4)) == FLOAT * 3 * (4 + 4 + 4)


def test_a_view_takes_nothing():
    net = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 2)), nn.ReLU())
    assert peak_memory(net, torch.zeros(3, 4)) == FLOAT * 3 * (4 + 4)
