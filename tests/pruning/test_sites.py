import numpy as np
import pytest
import torch
from support.networks import TINY, VARIANTS, build
from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import measured_macs


def some_units(site, drop=2):
    """All but `drop` units of every group, different ones in each group."""
    width = site.units // site.groups
    return np.concatenate(
        [
            group * width + np.delete(np.arange(width), [(group + i) % width for i in range(drop)])
            for group in range(site.groups)
        ]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_formula_equals_parameters_and_flop_counter(variant, images_BCHW):
    model = build(variant)
    sites = find_sites(model)
    cost = total_cost(family_of(model).describe(model).terms, widths(sites))
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.macs == measured_macs(model, images_BCHW[:1])


@pytest.mark.parametrize("axis", ["block", "heads", "qk", "v", "ffn"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cut_equals_mask_inside_a_block(variant, axis, images_BCHW):
    model = build(variant)
    sites = find_sites(model)
    site = next(s for s in sites if s.axis == axis and s.block == 1)
    keep = some_units(site, drop=1 if axis in ("heads", "block") else 2)
    smaller = cut(model, sites, {site.name: keep})
    with torch.no_grad():
        out = smaller(images_BCHW)
        with masked(model, site, set(range(site.units)) - set(keep.tolist())):
            expected = model(images_BCHW)
    if site.note:  # a norm over the units: its statistics change, which the note says
        assert not torch.allclose(out, expected, atol=1e-5)
    else:
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cut_of_every_axis_costs_what_the_formula_says(variant, images_BCHW):
    model = build(variant)
    before = {name: p.clone() for name, p in model.named_parameters()}
    sites = find_sites(model)
    keep = {s.name: some_units(s, drop=1 if s.axis == "heads" else 2) for s in sites if s.axis != "block"}
    smaller = cut(model, sites, keep)
    left = {s.name: len(keep[s.name]) // s.groups if s.name in keep else 1 for s in sites}
    cost = total_cost(family_of(model).describe(model).terms, left)
    assert cost.params == sum(p.numel() for p in smaller.parameters())
    assert cost.macs == measured_macs(smaller, images_BCHW[:1])
    # what was cut can be described and cut again
    assert widths(find_sites(smaller)) == left
    smaller(images_BCHW).square().sum().backward()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_block_that_goes_takes_all_its_cost_along(variant, images_BCHW):
    model = build(variant)
    sites = find_sites(model)
    smaller = cut(model, sites, {"blocks.0": np.arange(0)})
    left = {s.name: 0 if s.block == 0 else s.width for s in sites}
    cost = total_cost(family_of(model).describe(model).terms, left)
    assert cost.params == sum(p.numel() for p in smaller.parameters())
    assert cost.macs == measured_macs(smaller, images_BCHW[:1])
    assert [s.block for s in find_sites(smaller) if s.axis == "block"] == [0]


def test_keeping_everything_changes_nothing(tiny_vit, images_BCHW):
    sites = find_sites(tiny_vit)
    same = cut(tiny_vit, sites, {s.name: np.arange(s.units) for s in sites})
    assert torch.equal(same(images_BCHW), tiny_vit(images_BCHW))


def test_softmax_scale_of_the_source_is_kept(tiny_vit):
    sites = find_sites(tiny_vit)
    site = next(s for s in sites if s.name == "blocks.0.qk")
    smaller = cut(tiny_vit, sites, {site.name: some_units(site, drop=8)})
    assert smaller.blocks[0].attn.scale == tiny_vit.blocks[0].attn.scale == 16**-0.5
    assert smaller.blocks[0].attn.qk_dim == 8


def test_slices_of_the_embedding_by_hand():
    model = build(depth=1)
    embed = find_sites(model)[0]
    block = "blocks.0."
    assert {(part.parameter, part.dim) for part in embed.slices} == {
        ("cls_token", 2),
        ("pos_embed", 2),
        ("patch_embed.proj.weight", 0),
        ("patch_embed.proj.bias", 0),
        (block + "norm1.weight", 0),
        (block + "norm1.bias", 0),
        (block + "attn.qkv.weight", 1),
        (block + "attn.proj.weight", 0),
        (block + "attn.proj.bias", 0),
        (block + "norm2.weight", 0),
        (block + "norm2.bias", 0),
        (block + "mlp.fc1.weight", 1),
        (block + "mlp.fc2.weight", 0),
        (block + "mlp.fc2.bias", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("head.weight", 1),
    }
    assert all((part.index[:, 0] == np.arange(TINY["embed_dim"])).all() for part in embed.slices)


def test_slices_of_attention_by_hand():
    sites = {s.name: s for s in find_sites(build(embed_dim=6, num_heads=3))}
    qk, v, heads = (sites[f"blocks.0.{axis}"] for axis in ("qk", "v", "heads"))
    # rows of qkv: q 0-5, k 6-11, v 12-17, two for each head
    assert qk.slices[0].index.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert [part.index.ravel().tolist() for part in v.slices] == [[12, 13, 14, 15, 16, 17]] * 2 + [[0, 1, 2, 3, 4, 5]]
    removed = [
        sorted(np.concatenate([p.index[1] for p in heads.slices if p.parameter.endswith(name)]).tolist())
        for name in ("qkv.weight", "proj.weight")
    ]
    assert removed == [[2, 3, 8, 9, 14, 15], [2, 3]]
    assert (qk.groups, v.groups, heads.groups, qk.width) == (3, 3, 1, 2)


def test_sites_of_another_class_count_and_input_shape(images_BCHW):
    model = build(in_chans=1, img_size=(16, 32), patch_size=8, num_classes=2)
    cost = total_cost(family_of(model).describe(model).terms, widths(find_sites(model)))
    assert cost.macs == measured_macs(model, images_BCHW[:1, :1, :16])


def test_undeclared_parameter_is_an_error_with_its_name(tiny_vit):
    tiny_vit.surprise = nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match="surprise"):
        find_sites(tiny_vit)


def test_unknown_networks_and_blocks_are_refused_by_name():
    with pytest.raises(InputError, match="Linear"):
        find_sites(nn.Linear(2, 2))
    model = build()
    model.blocks[1] = nn.Identity()
    with pytest.raises(InputError, match=r"blocks\.1 is a Identity"):
        find_sites(model)


@pytest.mark.parametrize(
    ("keep", "complaint"),
    [
        ({"blocks.9.ffn": [0]}, "blocks.9.ffn"),
        ({"blocks.0.ffn": []}, "keep at least one"),
        ({"blocks.0": [], "blocks.1": []}, "every block"),
        ({"blocks.0.ffn": [3, 3]}, "increasing"),
        ({"blocks.0.ffn": [999]}, "below 192"),
        ({"blocks.0.v": [0, 1, 17]}, "differ in width"),
    ],
)
def test_impossible_cuts_are_refused(tiny_vit, keep, complaint):
    with pytest.raises(InputError, match=complaint):
        cut(tiny_vit, find_sites(tiny_vit), {name: np.array(units) for name, units in keep.items()})


def test_the_graph_leaves_the_model_alone(tiny_vit, images_BCHW):
    before = tiny_vit(images_BCHW)
    tiny_vit.train()
    find_sites(tiny_vit)
    assert tiny_vit.training
    assert torch.equal(tiny_vit.eval()(images_BCHW), before)
