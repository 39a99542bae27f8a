"""Parts of a network tuned towards the source's outputs."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from support.moments import batches_of, built, curves_of, error, folded, halves, images_of, measured
from support.swin import swin
from torch import nn

from prune_realloc.families import family_of
from prune_realloc.pruning import tune
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.sites import find_sites
from prune_realloc.pruning.streams import Streams
from prune_realloc.pruning.tune import Stretch, Tuning, tune_


def mixtures(count, seed):
    """Images that have something in common, so that what is learned of some holds of others."""
    parts = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.einsum("bp,pchw->bchw", parts, images_of(6))


FITTED, HELD, OTHERS = (mixtures(count, seed) for count, seed in ((64, 1), (32, 2), (48, 3)))


@cache
def case_and_curves(layout):
    """In the basis to be cut in."""
    network = swin() if layout == "swin" else built(layout)
    case = measured(folded(network.double()), batches_of(FITTED, 16)).rotated()
    return case, curves_of(case)


def tuned(case, keep, steps=20, seed=0, network=None):
    """The case's network, cut to `keep`, refitted and tuned; and how."""
    pruned = network or cut(case.model, case.sites, keep)
    tuning = Tuning(steps, seed, batches_of(HELD, 16))
    refit_(pruned, case.model, case.sites, keep, case.token_weights, batches_of(FITTED, 16), ridge=True, tuning=tuning)
    return pruned, tuning


def refitted(case, keep):
    pruned = cut(case.model, case.sites, keep)
    refit_(pruned, case.model, case.sites, keep, case.token_weights, batches_of(FITTED, 16), ridge=True)
    return pruned


@pytest.mark.parametrize("layout", ["plain", "distilled", "post_norm", "swiglu"])
def test_a_tuned_network_is_nearer_to_its_source_on_images_that_decided_nothing(layout):
    case, curves = case_and_curves(layout)
    keep = halves(case, curves, "qk", "v", "ffn")
    pruned, tuning = tuned(case, keep, steps=60)
    assert tuning.kept > len(tuning.errors) / 2
    assert error(pruned, case.model, OTHERS) < 0.95 * error(refitted(case, keep), case.model, OTHERS)
    assert all(p.grad is None for p in pruned.parameters())


@pytest.mark.parametrize("axes", [("embed",), ("ffn", "block")])
@pytest.mark.parametrize("layout", ["plain", "distilled", "swin"])
def test_what_the_last_part_says_is_the_error_of_the_whole_network(layout, axes):
    """Where blocks went and streams became narrower, too: no part was led another way than the network runs."""
    case, curves = case_and_curves(layout)
    pruned, tuning = tuned(case, halves(case, curves, *axes))
    *others, (name, before, after) = tuning.errors
    assert (name, "stages.1.embed" in [each for each, *_ in others]) == ("head", layout == "swin")
    assert error(pruned, case.model, HELD) == pytest.approx(min(before, after), rel=1e-9)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    case, curves = case_and_curves("plain")
    keep = halves(case, curves, "ffn")
    (one, _), (same, _), (other, _) = (tuned(case, keep, 60, seed) for seed in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_parts_that_come_no_nearer_on_held_back_images_stay_as_refitted(monkeypatch):
    monkeypatch.setattr(tune, "RATE", 10.0)
    case, curves = case_and_curves("plain")
    keep = halves(case, curves, "ffn", "embed")
    pruned, tuning = tuned(case, keep)
    assert (tuning.kept, len(tuning.errors)) == (0, 5)  # two branches in each of two blocks, and the head
    assert all(torch.equal(p, q) for p, q in zip(pruned.parameters(), refitted(case, keep).parameters(), strict=True))


def test_parts_where_nothing_is_lost_are_left_alone():
    case, curves = case_and_curves("plain")
    keep = halves(case, curves, "ffn")
    keep.pop("blocks.0.ffn")
    _, tuning = tuned(case, keep)
    assert [name for name, *_ in tuning.errors] == ["blocks.1.mlp", "head"]


def test_frozen_parameters_move_and_are_frozen_afterwards():
    case, curves = case_and_curves("plain")
    keep = halves(case, curves, "ffn")
    frozen = cut(case.model, case.sites, keep).requires_grad_(False)
    pruned, _ = tuned(case, keep, network=frozen)
    assert not any(p.requires_grad for p in pruned.parameters())
    assert torch.equal(pruned.head.weight, tuned(case, keep)[0].head.weight)


def test_what_an_earlier_part_reads_is_not_moved_by_a_later_one():
    torch.manual_seed(0)
    shared, own = nn.Linear(4, 4), nn.Linear(4, 4)
    model, x = nn.ModuleList([shared, own]), torch.randn(16, 4)
    tuning = Tuning(10, 0, [])
    with torch.no_grad(), Streams(x) as streams:
        for held in (False, True):
            streams.append(torch.randn(16, 4), x, held=held)
        tune_(model, Stretch("first", shared, lambda target: target), streams, tuning)
        before = copy.deepcopy(shared.weight), copy.deepcopy(own.weight)
        tune_(model, Stretch("second", lambda y: own(shared(y)), lambda target: target), streams, tuning)
    assert torch.equal(shared.weight, before[0])
    assert not torch.equal(own.weight, before[1]) or tuning.errors[1][2] >= tuning.errors[1][1]
    assert tuning.read == {*shared.parameters(), *own.parameters()}


def test_the_loss_weighs_tokens():
    """By hand: two tokens of two channels, squared errors 1, 4 and 9, 16 with weights 3 and 1."""
    stretch = Stretch("any", lambda y: y, lambda x: x, torch.tensor([3.0, 1.0]))
    y = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert float(stretch.loss(torch.zeros(1, 2, 2), y)) == pytest.approx((3 * (1 + 4) + 9 + 16) / 4)
    assert float(Stretch("any", lambda y: y, lambda x: x).loss(torch.zeros(1, 2, 2), y)) == pytest.approx(7.5)


class Side(nn.Module):
    """Two tensors carry the images all the way, so no chain of blocks is found."""

    input_size, num_classes = (3, 32, 32), 5

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(3, 8, 8, 8)
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        both = torch.cat([self.one(x), self.two(x)], 1).mean((2, 3))
        return self.fc2(torch.relu(self.fc1(both)))


def test_a_network_whose_blocks_are_not_known_is_one_part():
    torch.manual_seed(0)
    net = Side().double().eval()
    sites = find_sites(net)
    assert not family_of(net).describe(net).branches
    keep = {sites[0].name: np.arange(0, sites[0].units, 2)}
    pruned = cut(net, sites, keep)
    plain = error(pruned, net, OTHERS)
    tuning = Tuning(60, 0, batches_of(HELD, 16))
    refit_(pruned, net, sites, keep, {}, batches_of(FITTED, 16), ridge=True, tuning=tuning)
    assert [name for name, *_ in tuning.errors] == ["network"]
    assert error(pruned, net, OTHERS) < plain
