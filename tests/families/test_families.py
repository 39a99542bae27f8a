"""Which networks are supported, and how the others are refused."""

import pytest
import timm
import torch
from support.networks import build
from torch import nn

from prune_realloc import InputError, load_model
from prune_realloc.checkpoints.create import create_fresh
from prune_realloc.families import CUTTABLE, FAMILIES, cuttable_family_of, cuttable_family_of_architecture, family_of
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.sites import find_sites

SUPPORTED = (
    "supported: timm's VisionTransformer (ViT, DeiT, DeiT-III, DINOv2), timm's SwinTransformer (Swin, Swin-S3) and "
    "EfficientViT (MSRA); see docs/support.md"
)


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "flexivit_small"]
)
def test_supported_architectures_have_sites(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert [site.name for site in find_sites(net)[:3]] == ["embed", "blocks.0", "blocks.0.heads"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_r_s16_p8_224", "patch_embed is a HybridEmbed; supported: PatchEmbed"),
        ("vit_small_r26_s32_224", "patch_embed is a HybridEmbed; supported: PatchEmbed"),
        ("vitamin_small_224", "patch_embed is a HybridEmbed; supported: PatchEmbed"),
        ("vit_small_patch16_18x2_224", "blocks.0 is a ParallelThingsBlock; supported: Block, ResPostBlock"),
        ("swinv2_tiny_window8_256", "(SwinTransformerV2 in timm.models.swin_transformer_v2) is of no supported family"),
        ("vit_small_patch16_dinov3", "(Eva in timm.models.eva) is of no supported family"),
        ("vit_relpos_small_patch16_224", "(VisionTransformerRelPos in "),
        ("efficientvit_b0", "efficientvit_b0 (EfficientVit in timm.models.efficientvit_mit) is of no supported family"),
        ("levit_128s", "(LevitDistilled in timm.models.levit) is of no supported family"),
        ("cait_xxs24_224", "(Cait in timm.models.cait) is of no supported family"),
        ("mobilevit_xxs", "(ByobNet in timm.models.byobnet) is of no supported family"),
        ("efficientvit_m0", "has fixed widths; open it with load_model"),
    ],
)
def test_other_architectures_are_refused_in_one_true_line(name, message):
    net = timm.create_model(name)
    with pytest.raises(InputError) as refusal:
        find_sites(net)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if "is of no" in message:
        assert str(refusal.value).endswith(SUPPORTED)


def test_networks_of_other_makers_are_refused_by_class():
    with pytest.raises(InputError, match=r"model Linear in torch\.nn\.modules\.linear is of no supported family"):
        family_of(nn.Linear(2, 2))


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


def test_families_that_cut_are_told_from_those_that_score(tiny_vit):
    assert set(CUTTABLE) < set(FAMILIES)
    assert cuttable_family_of(tiny_vit).describe(tiny_vit).branches
    with pytest.raises(InputError, match="EfficientVit cannot be cut"):
        cuttable_family_of(create_fresh("efficientvit_m0"))
    assert cuttable_family_of_architecture("deit_tiny_patch16_224") is cuttable_family_of(tiny_vit)
    for name in ("efficientvit_m0", "levit_128s"):
        with pytest.raises(InputError, match="is of no family whose networks can be cut"):
            cuttable_family_of_architecture(name)


def test_nothing_ties_a_vits_stream_to_its_heads():
    assert all(site.multiple == 1 for site in find_sites(build()))
