"""A supported network inside one of the user's."""

import copy
import threading

import pytest
import timm
import torch
from support.networks import TINY, build
from support.wrapped import WHERE, segmenter
from torch import nn

from prune_realloc import find_sites
from prune_realloc.core.errors import InputError
from prune_realloc.families.host import copied, find_host


def test_a_supported_network_is_its_own_host(tiny_vit):
    host = find_host(tiny_vit)
    assert host.stands_alone
    assert host.inner is host.network is tiny_vit


def test_the_network_inside_is_found_and_its_sites_are_named_as_in_itself():
    net = segmenter()
    host = find_host(net)
    assert (host.at, host.inner) == (WHERE, net.backbone.model)
    assert str(host) == "Segmenter around backbone.model (VisionTransformer)"
    assert [site.name for site in find_sites(net)] == [site.name for site in find_sites(net.backbone.model)]
    assert len(net.backbone.model.blocks) == 2  # timm takes out what lies behind the last feature


def test_one_network_under_two_names_is_one():
    net = nn.ModuleDict({"a": build()})
    net["b"] = net["a"]
    assert find_host(net).at == "a"


def both():
    return nn.ModuleDict({"student": build(), "teacher": build()})


def shared():
    net = nn.ModuleDict({"vit": build()})
    net["first"] = net["vit"].blocks[0]
    return net


def tied():
    net = nn.ModuleDict({"vit": build(), "head": nn.Linear(48, 5)})
    net["head"].weight = net["vit"].head.weight
    return net


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (both, r"ModuleDict holds 2 supported networks: student \(VisionTransformer\), teacher \(VisionTransformer\)"),
        (shared, "first holds a part of vit too"),
        (tied, "head holds a part of vit too"),
    ],
)
def test_several_and_entangled_ones_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        find_host(make())
    assert "\n" not in str(caught.value)


def test_a_network_that_holds_no_declared_one_is_its_own_host():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert find_host(net).inner is net


def test_what_cannot_be_copied_is_said():
    net = segmenter()
    net.lock = threading.Lock()
    with pytest.raises(InputError, match=r"Segmenter cannot be copied \(cannot pickle"):
        copied(net)


def test_hooks_on_the_network_inside_go_along_into_a_copy():
    """timm's other way to read features: by hooks that write into the network around."""
    args = {key: value for key, value in TINY.items() if key != "num_classes"}
    net = timm.create_model("vit_tiny_patch16_224", features_only=True, feature_cls="hook", out_indices=(0, 1), **args)
    images = torch.randn(2, 3, 32, 32)
    again = copied(net.eval())
    expected = [x.clone() for x in net(images)]
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert all(torch.equal(a, b) for a, b in zip(again(images), expected, strict=True))
    assert copy.deepcopy(find_host(again).inner) is not again
