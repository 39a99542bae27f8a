import numpy as np
import pytest
import torch
from support.networks import VARIANTS, build
from support.swin import swin
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut, cut_to_widths
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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"blocks.9.ffn": 8}, r"blocks\.9\.ffn is no site of this model"),
        ({"blocks.0.ffn": None}, r"blocks\.0\.ffn is missing"),
        ({"blocks.0.qk": 17}, r"17 of blocks\.0\.qk are more than its 16"),
    ],
)
def test_widths_that_are_not_those_of_the_network_are_refused(tiny_vit, change, complaint):
    wanted = widths(find_sites(tiny_vit)) | change
    with pytest.raises(InputError, match=complaint):
        cut_to_widths(tiny_vit, {name: width for name, width in wanted.items() if width is not None})


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


class NewStorages(TorchDispatchMode):
    """Bytes of every storage that an operation makes, let go of or not."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        made = {x.untyped_storage() for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        self.sizes += [storage.nbytes() for storage in made if storage.data_ptr() not in given]
        return out


@pytest.mark.parametrize("make", [build, swin])
def test_only_what_is_left_is_copied(make):
    model = make(embed_dim=96)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    sites = find_sites(model)
    keep = {s.name: np.arange(0, s.units, 4) for s in sites if s.axis in ("qk", "v", "ffn")}
    with NewStorages() as new:
        smaller = cut(model, sites, keep)
    whole, left = (sum(x.nbytes for x in net.state_dict().values()) for net in (model, smaller))
    assert 0 < sum(new.sizes) < 1.5 * left < whole
    own, theirs = ({x.untyped_storage().data_ptr() for x in net.parameters()} for net in (smaller, model))
    assert not own & theirs
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
