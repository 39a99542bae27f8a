"""Which family a network is of, and which networks are refused."""

import pytest
import timm
import torch
import transformers
from support.networks import build
from torch import nn

from prune_realloc import InputError, load_model
from prune_realloc.checkpoints.create import create_fresh
from prune_realloc.families import (
    CUTTABLE,
    FAMILIES,
    cuttable_family_of_architecture,
    family_of,
    traced,
)
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.sites import find_sites


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "flexivit_small"]
)
def test_supported_architectures_have_sites(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert [site.name for site in find_sites(net)[:3]] == ["embed", "blocks.0", "blocks.0.heads"]


@pytest.mark.parametrize(
    ("name", "args", "axes"),
    [
        ("vit_tiny_r_s16_p8_224", {"depth": 2}, {"embed", "block", "heads", "qk", "v", "ffn"}),
        ("vit_small_patch16_18x2_224", {"depth": 2}, {"heads", "qk", "v", "ffn"}),
        ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1)}, {"embed", "block", "heads", "v", "ffn"}),
        ("vit_small_patch16_dinov3", {"depth": 2}, {"embed", "block", "v", "ffn"}),
        ("vit_relpos_small_patch16_224", {"depth": 2}, {"embed", "block", "heads", "qk", "v", "ffn"}),
        ("efficientvit_b0", {}, {"embed", "block", "hidden", "v"}),
        ("efficientvit_m0", {}, {"embed", "block", "ffn", "qk"}),
    ],
)
def test_what_no_family_declares_is_traced(name, args, axes):
    net = timm.create_model(name, **args)
    assert family_of(net) is traced
    assert axes <= {site.axis for site in find_sites(net)}


def told(net, size=(3, 16, 16)):
    """A network that says what it takes."""
    net.input_size = size
    return net


def of_transformers():
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    return transformers.ViTModel(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: told(nn.Linear(2, 2), 32), "model Linear: input_size is 32; make it such as (3, 224, 224)"),
        (lambda: nn.Linear(2, 2), "model Linear does not tell its input size; give it one: model.input_size = "),
        (
            lambda: told(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(3, 3))),
            "model Sequential does not run on one image of (3, 16, 16): mat1 and mat2 shapes cannot be multiplied",
        ),
        (of_transformers, "save it with save_pretrained and open that folder, which is read as timm's network"),
    ],
)
def test_what_is_refused_is_said_in_one_true_line(make, message):
    with pytest.raises(InputError) as refusal:
        find_sites(make())
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_timms_own_class_is_adopted_where_it_is_made():
    assert find_sites(create_fresh("efficientvit_m0"))


def test_hybrids_take_images_and_not_feature_maps():
    assert input_shape(timm.create_model("vit_tiny_r_s16_p8_224")) == (3, 224, 224)


def test_checkpoints_of_hybrids_load_by_name(tmp_path):
    net = timm.create_model("vit_tiny_r_s16_p8_224", num_classes=3).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    found = load_model(ckpt=tmp_path / "net.pth")
    assert (found.taken["architecture"].value, found.num_classes) == ("vit_tiny_r_s16_p8_224", 3)
    again = load_model("vit_tiny_r_s16_p8_224", ckpt=tmp_path / "net.pth", model_args={"num_classes": 3})
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_families_that_declare_sites_are_told_from_those_that_read_files(tiny_vit):
    assert set(CUTTABLE) < set(FAMILIES)
    assert family_of(tiny_vit).describe(tiny_vit).branches
    assert family_of(create_fresh("efficientvit_m0")) is traced
    assert cuttable_family_of_architecture("deit_tiny_patch16_224") is family_of(tiny_vit)
    for name in ("efficientvit_m0", "levit_128s"):
        assert cuttable_family_of_architecture(name) is traced


def test_nothing_ties_a_vits_stream_to_its_heads():
    assert all(site.multiple == 1 for site in find_sites(build()))
