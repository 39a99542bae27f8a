from contextlib import ExitStack

import numpy as np
import pytest
import torch
from support.efficientvit import flex, images

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Gate, Site
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


def of(net, axis, part):
    """Sites of an axis that have a row of a weight of this name."""
    return [s for s in find_sites(net) if s.axis == axis and any(part in x.parameter and x.dim == 0 for x in s.slices)]


def values(net, block, units):
    """Units of V of every head but the last of a block, which the stream takes along, as a site of their own."""
    attn = net.get_submodule(f"{block}.mixer.m.attn")
    rows = 2 * attn.qk_dim + np.array(units)[:, None]
    gates = [Gate(f"{block}.mixer.m.attn.qkvs.{head}", "output", rows, 1) for head in range(attn.num_heads - 1)]
    return Site("v", 0, len(units), (), tuple(gates)), range(len(units))


def lost_queries(net):
    return ((site, [0]) for site in of(net, "qk", "qkvs"))


def lost_values(net):
    """Of the last stage, where heads are 16 wide, the last four of each."""
    for block in (0, 1):
        yield values(net, f"stages.2.blocks.{block}", range(12, 16))
        yield of(net, "ffn", f"stages.2.blocks.{block}.mixer.m.attn.qkvs")[0], range(12, 16)


def lost_hidden(net):
    for stage, width in ((0, 30), (1, 44), (2, 60)):
        for site in of(net, "ffn", f"stages.{stage}.blocks"):
            if any(".up." in part.parameter for part in site.slices):
                yield site, range(site.units - width)


def lost_channels(net):
    """Two of each head's of the last stage, with the values that meet them, and as many of the last head's values."""
    with torch.no_grad():  # a batch norm makes something of a channel that is zero
        net.head.linear.weight[:, [0, 1, 16, 17]] = 0
    yield next(site for site in find_sites(net) if site.name == "stages.2.embed"), [0, 1, 16, 17]
    for block in (0, 1):
        yield of(net, "ffn", f"stages.2.blocks.{block}.mixer.m.attn.qkvs")[0], [0, 1]


LOST = {"qk": lost_queries, "v": lost_values, "ffn": lost_hidden, "embed": lost_channels}


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
    lost = list(LOST[axis](net))
    for site, units in lost:
        if site.name in scores:
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


def test_scores_of_other_sites_are_refused():
    net = flex()
    with pytest.raises(InputError, match="names other sites than this version; run `analyze` again"):
        inherit(net, EfficientVit(net.config), {"blocks.0.ffn": np.ones(64)})


@pytest.mark.parametrize(
    ("weight", "args"),
    [
        ("stages.1.downsample.merge.expand.conv.weight", {"merge_dim": [60, 96]}),
        ("stages.1.downsample.before.ffn.m.up.conv.weight", {"merge_ffn_dim": [[28, 48], [48, 64]]}),
    ],
)
def test_hidden_channels_between_stages_follow_their_scores(weight, args):
    net = flex(v_dim=None)
    scores = ones(net)
    [site] = [s for s in find_sites(net) for x in s.slices if s.axis != "block" and (x.parameter, x.dim) == (weight, 0)]
    gone = [1, 2, 5, 9]
    scores[site.name][gone] = 0.5
    fresh = EfficientVit(EfficientVitConfig(**(net.config.args() | args)))
    inherit(net, fresh, scores)
    stay = [row for row in range(site.units) if row not in gone]
    assert torch.equal(fresh.get_parameter(weight), net.get_parameter(weight)[stay])
