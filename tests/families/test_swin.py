"""Swin as its family declares it: sites, costs, branches, and what tensors tell."""

import numpy as np
import pytest
import timm
import torch
from support.swin import SWIN, SWINS, pictures, swin
from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import cuttable_family_of_architecture, family_of
from prune_realloc.families import swin as family
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.sites import find_sites, stream_sites, widths
from prune_realloc.runtime.networks import measured_macs

NAMES = timm.list_models(module="swin_transformer")


@pytest.mark.parametrize("layout", SWINS)
def test_formula_equals_parameters_and_flop_counter(layout):
    net = swin(layout)
    cost = total_cost(family.describe(net).terms, widths(find_sites(net)))
    assert cost.params == sum(p.numel() for p in net.parameters())
    assert cost.macs == measured_macs(net, pictures(net, 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_published_size_has_its_sites_and_cost(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    sites = find_sites(net)
    assert list(stream_sites(sites)) == [f"stages.{stage}.embed" for stage in range(4)]
    assert cuttable_family_of_architecture(name) is family_of(net) is family
    cost = total_cost(family.describe(net).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in net.parameters())


def test_multiply_adds_of_swin_t_are_the_papers():
    """4.5 G (Liu et al., ICCV 2021, table 1), and 28.3 M parameters."""
    with torch.device("meta"):
        net = timm.create_model(SWIN)
    cost = total_cost(family.describe(net).terms, widths(find_sites(net)))
    assert (cost.params, round(cost.macs / 1e9, 1)) == (28_288_354, 4.5)


def test_slices_of_a_block_and_of_patch_merging_by_hand():
    sites = {site.name: site for site in find_sites(swin(embed_dim=4, num_heads=(2, 2)))}
    heads, first = sites["blocks.3.heads"], sites["stages.0.embed"]
    assert [(s.parameter, s.dim, s.index.tolist()) for s in heads.slices[-2:]] == [
        ("layers.1.blocks.1.attn.proj.weight", 1, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("layers.1.blocks.1.attn.relative_position_bias_table", 1, [[0], [1]]),
    ]
    merging = {(s.parameter, s.dim): s.index.tolist() for s in first.slices if s.parameter.startswith("layers.1.")}
    four = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]
    names = ("norm.weight", 0), ("norm.bias", 0), ("reduction.weight", 1)
    assert merging == {(f"layers.1.downsample.{name}", dim): four for name, dim in names}
    assert (sites["blocks.3.v"].width, sites["blocks.3.v"].groups, sites["stages.1.embed"].multiple) == (4, 2, 1)


@pytest.mark.parametrize("layout", SWINS)
def test_branches_add_up_to_the_forward_pass(layout):
    net = swin(layout).double()
    images, stream = pictures(net), None
    with torch.no_grad():
        x = images
        for branch in family.describe(net).branches:
            if branch.stream != stream:
                x, stream = family.stream_input(net, branch.stream, x), branch.stream
            x = x + family.branch_output(net, branch, x)
        torch.testing.assert_close(family.head_output(net, x), net(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", SWINS)
def test_what_a_writer_puts_out_in_the_order_of_the_stream_is_what_its_branch_adds(layout):
    net = swin(layout).double()
    for branch in family.describe(net).branches:
        seen, x = [], family.stream_input(net, "stages.0.embed", pictures(net))
        if branch.stream == "stages.1.embed":
            x = family.stream_input(net, branch.stream, x)
        with torch.no_grad(), hooked(net, [(branch.writer, "output", seen.append)]):
            added = family.branch_output(net, branch, x)
        assert torch.equal(family.in_stream_order(net, branch, seen[0]), added), branch.name


@pytest.mark.parametrize("pool", ["", "avg"])
def test_features_are_pooled(pool):
    net = swin(num_classes=0, global_pool=pool)
    assert family.features(net, pictures(net)).shape == (3, 48)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.layers[0].blocks, "1", nn.Identity()),
        lambda net: setattr(net.layers[1].blocks[0], "attn", nn.Identity()),
        lambda net: setattr(net.layers[1].blocks[0], "mlp", nn.Linear(1, 1)),
        lambda net: setattr(net.layers[1], "downsample", nn.Identity()),
        lambda net: setattr(net, "patch_embed", nn.Conv2d(3, 24, 2, 2)),
        lambda net: net.reset_classifier(5, "catavgmax"),
    ],
)
def test_networks_with_other_modules_inside_are_not_of_this_family(change):
    net = swin()
    change(net)
    assert not family.owns(net)


@pytest.mark.parametrize("layout", SWINS)
def test_tensors_tell_windows_and_outside(layout):
    net = swin(layout)
    assert family.recognises(net.state_dict())
    args = family.inferred_args(net.state_dict(), net.patch_embed.img_size)
    assert (args["num_classes"], args["patch_size"], args["in_chans"]) == (net.num_classes, 2, 3)
    windows = [list(stage.blocks[0].window_size) for stage in net.layers]
    assert args.get("window_size", windows) == windows
    assert ("window_size" in args) == (layout != "oblong windows")


@pytest.mark.parametrize("name", NAMES)
def test_candidates_have_the_tensors_shapes(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert name in family.candidates(state)
    assert len(family.candidates(state)) <= 2


def test_tables_of_another_window_are_resized_and_those_that_fit_are_left():
    net, oblong = swin(), swin("oblong windows")
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    wide = family.to_timm_keys(dict(net.state_dict()), swin(window_size=8))
    assert wide[table].shape == (225, 2)
    same = family.to_timm_keys(dict(oblong.state_dict()), oblong)
    assert all(torch.equal(tensor, oblong.state_dict()[name]) for name, tensor in same.items())


@pytest.mark.parametrize(
    "name", ["patch_embed.proj.weight", "head.fc.weight", "layers.1.blocks.1.attn.relative_position_bias_table"]
)
def test_tensors_with_other_axes_are_named(name):
    state = swin().state_dict()
    state[name] = state[name].flatten()[0]
    with pytest.raises(InputError, match=rf"{name} has the shape \(\), not one of \d axes; the checkpoint is damaged"):
        family.inferred_args(state, None)


def test_blocks_keep_the_shift_of_their_windows_when_others_go():
    net = swin(depths=(4, 3))
    kept = [block for block in (*net.layers[0].blocks, *net.layers[1].blocks)]
    assert family.places(net)[1] == list(range(7))
    with torch.no_grad():
        family.drop_blocks_(net, {0, 3, 5, 6})
    args, numbers = family.places(net)
    assert (args["depths"], numbers) == ([3, 1], [1, 2, 3])
    assert [*net.layers[0].blocks, *net.layers[1].blocks] == [kept[1], kept[2], kept[4]]
    family.drop_blocks_(net, {2})
    assert family.places(net) == ({"depths": [3, 1], "window_size": [[4, 4], [1, 1]]}, [1, 2])
    assert np.all([stage.depth for stage in net.layers] == [2, 0])
