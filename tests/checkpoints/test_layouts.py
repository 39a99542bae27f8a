"""torchvision, Swin of its authors and TimmWrapper -> timm's networks of the same outputs."""

import json
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from support.layouts import built, equal, images, prefixed, same_outputs, translated
from support.networks import TINY, build, randomise_
from timm.data import IMAGENET_DEFAULT_MEAN
from torchvision.models import swin_transformer, vision_transformer

from prune_realloc.checkpoints.layouts import translate
from prune_realloc.checkpoints.layouts.translated import fused
from prune_realloc.core.errors import InputError


def torchvision_vit(**more: Any) -> Any:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    return randomise_(vision_transformer.VisionTransformer(**sizes | {"num_classes": 5} | more))


def test_timms_own_layouts_are_none_of_these():
    for variant in ("plain", "distilled", "registers", "pre_norm", "attention_pool", "swiglu"):
        assert translate(build(variant).state_dict(), None, None) is None


def test_torchvision_vit():
    net = torchvision_vit()
    found = translated(net.state_dict())
    assert found.architecture is None  # three heads or four: no tensor tells
    assert found.pretrained_cfg["mean"] == list(IMAGENET_DEFAULT_MEAN)
    assert same_outputs(built(found, "vit_base_patch16_224", num_heads=3), net)


@pytest.mark.parametrize(
    ("name", "ours", "heads"),
    [
        ("vit_b_16", "vit_base_patch16_224", 12),
        ("vit_l_32", "vit_large_patch32_224", 16),
        ("vit_h_14", "vit_huge_patch14_224", 16),
    ],
)
def test_published_torchvision_vits_have_their_names_and_heads(name, ours, heads):
    with torch.device("meta"):
        found = translated(getattr(vision_transformer, name)().state_dict())
    assert (found.architecture, found.model_args["num_heads"]) == (ours, heads)


def test_torchvision_swin():
    sizes: dict[str, Any] = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}
    net = randomise_(swin_transformer.SwinTransformer(**sizes, window_size=[4, 4], num_classes=5))
    found = translated(net.state_dict())
    assert found.model_args["num_heads"] == [2, 4, 8]
    assert all(name.endswith("relative_position_index") for name in found.left_out)
    assert same_outputs(built(found, img_size=64), net, 64)


def test_published_torchvision_swin():
    with torch.device("meta"):
        found = translated(swin_transformer.swin_s().state_dict())
    assert found.architecture == "swin_small_patch4_window7_224"


def test_swin_of_its_authors():
    sizes: dict[str, Any] = {
        "img_size": 64,
        "embed_dim": 16,
        "depths": (2, 2, 2),
        "num_heads": (2, 4, 8),
        "window_size": 4,
    }
    net = randomise_(timm.create_model("swin_tiny_patch4_window7_224", **sizes, num_classes=5))
    earlier = {"layers.1.downsample": "layers.0.downsample", "layers.2.downsample": "layers.1.downsample"}
    state = dict(net.state_dict()) | {"layers.0.blocks.1.attn_mask": torch.zeros(16, 16, 16)}
    for ours, theirs in (*earlier.items(), ("head.fc", "head")):
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    found = translated(state)
    assert found.model_args["img_size"] == [64, 64]
    assert found.left_out == ("layers.0.blocks.1.attn_mask",)
    assert same_outputs(built(found), net, 64)
    assert translate(net.state_dict()) is None  # timm's own


def test_timm_wrapper():
    net = build("registers")
    config = {
        "model_type": "timm_wrapper",
        "architecture": "vit_small_patch14_reg4_dinov2",
        "model_args": {key: value for key, value in TINY.items() if key != "num_classes"},
        "num_classes": 5,
        "label_names": ["a", "b", "c", "d", "e"],
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "hf_hub_id": "timm/"},
    }
    found = translated(prefixed(net.state_dict(), "timm_model."), config)
    assert found.pretrained_cfg == {"mean": [0.1, 0.2, 0.3], "num_classes": 5, "label_names": ["a", "b", "c", "d", "e"]}
    assert same_outputs(built(found), net)
    with pytest.raises(InputError, match="no architecture that timm knows"):
        translated(prefixed(net.state_dict(), "timm_model."), config | {"architecture": "hf-hub:somebody/net"})
    with pytest.raises(InputError, match="checkpoint_path is refused"):
        translated(prefixed(net.state_dict(), "timm_model."), config | {"model_args": {"checkpoint_path": "/etc/x"}})


def test_folder_of_timm_wrapper_itself(tmp_path):
    hf = pytest.importorskip("transformers")
    sizes = {key: value for key, value in TINY.items() if key != "num_classes"}
    config = hf.TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=sizes, num_labels=5)
    net = randomise_(hf.TimmWrapperForImageClassification(config))
    net.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    found = translated(state, json.loads((tmp_path / "config.json").read_text()))
    pixels = images()
    with torch.no_grad():
        assert equal(built(found)(pixels), net.double()(pixels).logits)


def test_parts_of_a_layer_beside_the_whole_of_it_are_refused():
    parts = {f"blocks.0.attn.{part}.weight": torch.ones(2, 2) for part in "qkv"}
    whole = {"blocks.0.attn.qkv.weight": torch.zeros(6, 2)}
    assert fused(parts)["blocks.0.attn.qkv.weight"].shape == (6, 2)
    for state in (parts | whole, whole | parts):
        with pytest.raises(InputError, match=r"two tensors are blocks\.0\.attn\.qkv\.weight"):
            fused(state)
