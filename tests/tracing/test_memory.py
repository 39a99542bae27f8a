"""The formula of the memory of a pass against what is alive in one, before and after a cut."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from support.efficientvit import flex
from support.networks import build
from support.swin import SWINS, swin
from torch import nn

from prune_realloc.core.memory import Memory
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, inner_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.memory import peak_memory
from prune_realloc.tracing.memory import memory_of


def narrowed(sites, seed):
    """Some of the units of each site, of all groups alike, in multiples as the site wants them; no block goes."""
    rng, keep = np.random.default_rng(seed), {}
    for site in sites:
        if site.axis != "block":
            wanted = int(rng.integers(max(1, site.width // 3), site.width + 1))
            width = max(site.multiple, wanted // site.multiple * site.multiple)
            keep[site.name] = np.concatenate([np.arange(width) + group * site.width for group in range(site.groups)])
    return keep


def compared(net, seed=0):
    """(formula, measured) of a network and of what is left of it, at one and at five images."""
    sites, net = find_sites(net), inner_of(adopted(net))
    shape, terms = input_shape(net), family_of(net).describe(net).terms
    memory = memory_of(net, (1, *shape), sites)
    keep = narrowed(sites, seed)
    left = {site.name: len(keep[site.name]) // site.groups for site in sites if site.name in keep}
    for model, own in ((net, {}), (cut(net, sites, keep).eval(), left)):
        for count in (1, 5):
            formula = memory.peak(terms, {**widths(sites), **own}, count)
            yield formula, peak_memory(model, torch.zeros(count, *shape))


@pytest.mark.parametrize("variant", ["plain", "distilled", "registers", "no_bias", "pre_norm", "average_pool"])
def test_the_formula_of_a_vit_is_exact(variant):
    for formula, measured in compared(build(variant), seed=1):
        assert formula == measured


@pytest.mark.parametrize("layout", sorted(SWINS))
def test_the_formula_of_a_swin_is_exact_at_the_source(layout):
    if layout != "own head width":
        (formula, measured), *_ = compared(swin(layout))
        assert formula == measured


@pytest.mark.parametrize("seed", range(3))
def test_the_formula_of_a_cut_swin_whose_heads_are_as_wide_as_usual(seed):
    net = swin(embed_dim=96, num_heads=(3, 6))  # in narrower heads the logits hold the most, which a cut fuses
    for formula, measured in compared(net, seed):
        assert measured <= formula <= 1.1 * measured


@pytest.mark.parametrize("seed", range(2))
def test_the_formula_of_a_traced_network(seed):
    whole, whole_batch, *left = compared(flex(), seed)
    for formula, measured in (whole, whole_batch):
        assert formula == measured
    for formula, measured in left:
        # buffers are counted as the source's, and the cut adds its biases to logits in place of making them once more
        assert measured <= formula <= 1.25 * measured


def test_attention_of_unlike_widths_counts_its_logits():
    net = build()
    sites = find_sites(net)
    memory, terms = memory_of(net, (1, 3, 32, 32), sites), family_of(net).describe(net).terms
    whole = dict(widths(sites))
    narrow = {name: 1 if name.endswith(("ffn", "qk")) else width for name, width in whole.items()}
    alike = {name: 1 if name.endswith(("ffn", "qk", "v")) else width for name, width in whole.items()}
    assert max(each.shared for moment in memory.moments for each in moment.alive) == 0
    found = {each.each for moment in memory.moments for each in moment.alive if each.unlike and len(each.sites) == 1}
    assert found == {
        17 * 17 * 4,
        2 * 17 * 17 * 4,
    }  # of a head: tokens, tokens, bytes; before the softmax, and behind it
    assert memory.peak(terms, narrow, 1) > memory.peak(terms, alike, 1)


class Changing(nn.Module):
    """Computes another thing each time."""

    runs = 0  # of the class: a copy of the network goes on counting

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        Changing.runs += 1
        return self.layer(x) if Changing.runs % 2 else self.layer(x).relu()


def test_a_network_that_computes_something_else_each_time_has_no_formula():
    assert memory_of(Changing().eval(), (1, 4), ()) is None


def test_round_trip():
    net = build()
    memory = memory_of(net, (1, 3, 32, 32), find_sites(net))
    assert TypeAdapter(Memory).validate_json(json.dumps(asdict(memory))) == memory
