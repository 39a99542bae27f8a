from contextlib import ExitStack

import numpy as np
import pytest
import torch
from support.efficientvit import flex, images

from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.inherit import inherit
from prune_realloc.pruning.sites import find_sites


def ones(net):
    return {site.name: np.ones(site.units) for site in find_sites(net)}


def test_the_same_widths_inherit_the_same_network():
    net = flex()
    fresh = EfficientVit(net.config)
    inherit(net, fresh, ones(net))
    x = images(2, 28, 1)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), net(x))


@pytest.mark.parametrize("axis", ["qk", "v", "ffn", "embed"])
def test_without_units_that_are_masked_the_function_stays(axis):
    """Units that do nothing in the source are left behind; the smaller network computes what the source computes."""
    net = flex(v_dim=None)
    scores = {name: s + np.arange(len(s)) / 100 for name, s in ones(net).items()}
    x = images(2, 28, 1)
    config = net.config
    smaller = {
        "qk": {"qk_dim": 3},
        "v": {"v_dim": [8, 12, 12]},
        "ffn": {"ffn_dim": [30, 44, 60]},
        "embed": {
            "embed_dim": [16, 24, 28],
            "v_dim": [8, 12, 14],
            "ffn_dim": [32, 48, 64],
            "merge_dim": [64, 96],
            "merge_ffn_dim": [[32, 48], [48, 64]],
        },
    }[axis]
    gone = {"qk": [0, 4], "v": [12, 13, 14, 15, 28, 29, 30, 31], "ffn": [0, 1], "embed": [0, 1, 16, 17]}[axis]
    lost = []
    for site in find_sites(net):
        if axis == "embed" and site.name == "stages.2.embed":
            scores[site.name][gone] = -1.0
            lost.append((site, gone))
            with torch.no_grad():  # a batch norm makes something of a channel that is zero
                net.head.linear.weight[:, gone] = 0
        elif axis == "embed" and site.axis == "v" and site.block >= 2:
            # values that are added to channels which go, and as many of the last head's
            scores[site.name][gone] = -1.0
            lost.append((site, gone))
        elif axis == site.axis == "qk":
            units = [h * site.width for h in range(site.groups)]
            scores[site.name][units] = -1.0
            lost.append((site, units))
        elif axis == site.axis == "ffn":
            drop = site.width - {0: 30, 1: 44, 2: 60, 3: 60}[site.block]
            units = [g * site.width + i for g in range(2) for i in range(drop)]
            scores[site.name][units] = -1.0
            lost.append((site, units))
        elif axis == site.axis == "v" and site.block >= 2:
            units = [h * 16 + i for h in range(2) for i in range(12, 16)]
            lost.append((site, units))
            scores[site.name][units] = -1.0
    fresh = EfficientVit(EfficientVitConfig(**(config.args() | smaller)))
    inherit(net, fresh, scores)
    with torch.no_grad(), ExitStack() as stack:
        for site, units in lost:
            stack.enter_context(masked(net, site, units))
        expected = net(x)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_wider_networks_keep_what_is_new():
    net = flex(v_dim=None)
    args = net.config.args() | {"embed_dim": [24, 32, 40], "qk_dim": 8, "v_dim": [20, 20, 20], "ffn_dim": [40, 60, 80]}
    torch.manual_seed(1)
    fresh = EfficientVit(EfficientVitConfig(**args))
    inherit(net, fresh, ones(net))
    assert torch.equal(
        fresh.stages[0].blocks[0].before[0].ffn.m.up.conv.weight[:32, :8],
        net.stages[0].blocks[0].before[0].ffn.m.up.conv.weight[:, :8],
    )
    assert torch.isfinite(fresh.eval()(images(2, 28, 1))).all()


def test_windows_of_another_size_inherit_resized_biases():
    net = flex(img_size=56)  # windows of 7, 7 and 4
    fresh = EfficientVit(EfficientVitConfig(**(net.config.args() | {"window_size": [5, 7, 4]})))
    inherit(net, fresh, ones(net))
    biases = fresh.stages[0].blocks[0].mixer.m.attn.attention_biases
    assert biases.shape == (2, 25)
    assert biases.abs().sum() > 0
