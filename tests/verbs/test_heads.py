"""How alike heads are, and what each one is worth: laws on networks that are made so."""

import numpy as np
import pytest
import timm
import torch
from support.networks import build, randomise_
from support.toy_analysis import make_toy_analysis

from prune_realloc.core.structure import Site
from prune_realloc.data.batches import Batch
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.head_maps import cosines, linear_map
from prune_realloc.pruning.head_sites import head_sites
from prune_realloc.pruning.sites import find_sites
from prune_realloc.results.evaluate import Predictions, measure
from prune_realloc.verbs.heads import measured_heads, planned_channels, planned_heads

H, K = 3, 16  # heads of the tiny ViT, and their width


def batches(net, images):
    """Two batches of different size."""
    labels = torch.arange(len(images)) % net.num_classes
    places = torch.arange(len(images))
    parts = slice(0, 4), slice(4, None)
    return [Batch(places[part], images[part], labels[part], tuple(places[part].tolist())) for part in parts]


def measured(net, images, labelled=True):
    blocks, samples = measured_heads(net, head_sites(net), batches(net, images), labelled=labelled)
    assert samples == len(images)
    return blocks


@torch.no_grad()
def test_equal_heads_are_alike_and_apart_ones_are_not(tiny_vit, images_BCHW):
    attn = tiny_vit.blocks[0].attn
    rows = attn.qkv.weight.view(3, H, K, -1)
    rows[:, 1], attn.qkv.bias.view(3, H, K)[:, 1] = rows[:, 0], attn.qkv.bias.view(3, H, K)[:, 0]
    columns = attn.proj.weight.view(-1, H, K)
    columns[:, 1] = columns[:, 0]
    columns[24:, 0] = columns[24:, 1] = columns[:24, 2] = 0  # the third writes where the others do not
    first = measured(tiny_vit, images_BCHW)[0]
    for likeness in (first.maps, first.outputs):
        assert likeness.matrix[0][1] == pytest.approx(1, abs=1e-9)
        assert likeness.largest == pytest.approx(1, abs=1e-9)
    assert first.outputs.matrix[0][2] == pytest.approx(0, abs=1e-9)
    assert first.maps.matrix[0][2] < 0.999
    assert first.outputs.mean == pytest.approx(1 / 3)
    assert first.removal[0] == pytest.approx(first.removal[1], abs=1e-6)


def test_cosines_by_hand():
    each = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]])
    half = np.sqrt(0.5)
    expected = [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    assert cosines(each @ each.T) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("variant", ["plain", "qk_norm"])
def test_maps_of_fused_attention_are_those_of_the_softmax(images_BCHW, variant):
    net = build(variant)
    fused = measured(net, images_BCHW)
    for block in net.blocks:
        block.attn.fused_attn = False
    for one, other in zip(fused, measured(net, images_BCHW), strict=True):
        assert np.array(one.maps.matrix) == pytest.approx(np.array(other.maps.matrix), abs=1e-5)


SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4), num_classes=5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_removal_costs_what_the_cut_costs(name, images_BCHW):
    torch.manual_seed(0)
    net = build() if name == "vit" else timm.create_model("swin_tiny_patch4_window7_224", **SWIN).eval()
    sites, whole = find_sites(net), measure(net, batches(net, images_BCHW), labelled=True)
    for block in measured(net, images_BCHW):
        assert block.maps is not None
        for head in range(block.heads):
            smaller = cut(net, sites, _without(sites, block.site, head))
            found = measure(smaller, batches(net, images_BCHW), labelled=True, source=Predictions(net))
            assert block.removal[head] == pytest.approx(found.loss - whole.loss, abs=1e-5)
            assert block.kl[head] == pytest.approx(found.kl, abs=1e-5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_what_was_cut_to_unlike_widths_has_maps_too(name, images_BCHW):
    torch.manual_seed(0)
    net = build() if name == "vit" else timm.create_model("swin_tiny_patch4_window7_224", **SWIN).eval()
    sites = find_sites(net)
    narrow = {site.name: _first_half(site) for site in sites if site.axis == "qk"}
    for block in measured(cut(net, sites, narrow), images_BCHW):
        assert np.diag(block.maps.matrix) == pytest.approx(np.ones(block.heads))
        assert block.maps.largest < 1


def _first_half(site):
    return (np.arange(site.groups)[:, None] * site.width + np.arange(site.width // 2)).ravel()


def _without(sites, name, head):
    heads = next(site for site in sites if site.name == name)
    return {name: np.delete(np.arange(heads.units), head)}


def test_without_labels_the_loss_is_the_distance(tiny_vit, images_BCHW):
    for block in measured(tiny_vit, images_BCHW, labelled=False):
        assert block.removal == block.kl
        assert min(block.kl) > 0


def test_cascaded_heads():
    net = randomise_(timm.create_model("efficientvit_m0", depth=(1, 1, 1), num_classes=5))
    with torch.no_grad():
        net.stages[0].blocks[0].mixer.m.attn.proj[1].conv.weight[:, :16] = 0  # what the first head is read with
    images = torch.randn(6, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    first, *others = measured(net, images)
    assert (first.heads, len(first.maps.matrix), len(others)) == (4, 4, 2)
    assert first.outputs.matrix[0][1:] == (0, 0, 0)
    assert first.removal[0] == pytest.approx(0, abs=1e-6)
    assert all(first.removal[1:])


@torch.no_grad()
def test_heads_of_linear_attention():
    """Each head is a run of the writer's columns, and the implied map is what its values are weighed by."""
    torch.manual_seed(0)
    net = randomise_(timm.create_model("efficientvit_b0", num_classes=5)).eval()
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    attention = net.stages[2].blocks[1].context_module.main
    sites, whole = head_sites(net), measure(net, batches(net, images), labelled=True)
    first = measured_heads(net, sites, batches(net, images), labelled=True)[0][0]
    assert (first.site, first.heads, len(sites)) == ("blocks.6.heads", 8, 4)
    seen, inside = [], attention._attn
    attention._attn = lambda q, k, v: seen.append((q, k, v, inside(q, k, v))) or seen[-1][3]
    net(images)
    q, k, v, out = seen[0]
    implied = linear_map(q, k.transpose(-1, -2))
    assert torch.allclose(implied @ v[..., :-1], out, rtol=1e-3, atol=1e-4)
    flat = implied.transpose(0, 1).flatten(1).double()
    assert np.array(first.maps.matrix) == pytest.approx(cosines((flat @ flat.T).numpy()), abs=1e-5)
    attention.proj.conv.weight[:, 16:32] = 0  # the second head of the first scale
    without = measure(net, batches(net, images), labelled=True)
    assert first.removal[1] == pytest.approx(without.loss - whole.loss, abs=1e-5)
    assert first.removal[1] != pytest.approx(0, abs=1e-4)


def test_what_is_below_zero_weighs_nothing():
    query, key = torch.tensor([[[1.0, 0.0], [1.0, 3.0]]]), torch.tensor([[[2.0, 6.0], [4.0, 0.0]]])
    assert torch.allclose(linear_map(query, key), torch.tensor([[[0.25, 0.75], [0.7, 0.3]]]))
    assert linear_map(-query, key) is None


def test_of_tied_heads_the_planner_keeps_channels():
    """Of two channels of V in each of two heads, 80 multiply-adds each, one goes."""
    tied = [Site("heads", 0, 2, (), ())]
    [note] = planned_channels(make_toy_analysis(), tied)
    assert "keeps blocks.0.v 1 of 2 where half" in note
    assert planned_channels(make_toy_analysis(), []) == ()


def test_the_planner_keeps_half_of_the_heads():
    """Of two heads of 240 multiply-adds each one goes; of what has no heads, nothing is said."""
    assert planned_heads(make_toy_analysis()) == ({"blocks.0.heads": 1}, ())
    whole = make_toy_analysis().widths | {"blocks.0.heads": 1}
    assert planned_heads(make_toy_analysis(widths=whole)) == ({}, ())
