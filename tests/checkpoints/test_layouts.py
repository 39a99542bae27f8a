"""torchvision, open_clip, TimmWrapper and self-supervised training -> timm's networks of the same outputs."""

import json
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from support.layouts import built, equal, images, translated
from support.networks import TINY, build, randomise_
from timm.data import IMAGENET_DEFAULT_MEAN, OPENAI_CLIP_MEAN
from torchvision.models import swin_transformer, vision_transformer

from prune_realloc.checkpoints.layouts import translate
from prune_realloc.core.errors import InputError

ENCODER = TINY | {"num_classes": 0}


def torchvision_vit(**more: Any) -> Any:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    return randomise_(vision_transformer.VisionTransformer(**sizes | {"num_classes": 5} | more))


def encoder(name: str = "vit_tiny_patch16_224", **more: Any) -> Any:
    return randomise_(timm.create_model(name, **ENCODER | more))


def prefixed(state: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same_outputs(ours: Any, theirs: Any, size: int = 32) -> bool:
    pixels = images(size)
    with torch.no_grad():
        return equal(ours(pixels), theirs.double()(pixels))


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


@pytest.fixture(scope="module")
def clip():
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0}
    text = {"context_length": 4, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}

    def make(quick: bool, **more: Any) -> Any:
        net = open_clip.CLIP(embed_dim=24, vision_cfg=vision | more, text_cfg=text, quick_gelu=quick)
        config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision | more, "text_cfg": text, "quick_gelu": quick}}
        return randomise_(net), config

    return make


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("scale", [None, 0.1])
def test_open_clip_tower(clip, quick, scale):
    net, config = clip(quick, ls_init_value=scale)
    found = translated(net.state_dict(), config)
    assert found.architecture == f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224"
    assert found.pretrained_cfg["mean"] == list(OPENAI_CLIP_MEAN)
    assert "token_embedding.weight" in found.left_out
    assert not any(name.startswith("visual.") for name in found.left_out)
    assert same_outputs(built(found), net.visual)
    alone = translated(net.visual.state_dict(), config)
    assert alone.state.keys() == found.state.keys()


def test_open_clip_without_configuration_does_not_choose_an_activation(clip):
    net, _ = clip(True)
    found = translated(net.state_dict())
    assert found.architecture is None
    assert "act_layer" not in found.model_args
    assert "clip_quickgelu" in found.notes[0]
    openai = net.state_dict() | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(4)}
    assert translated(openai).model_args["act_layer"] == "quick_gelu"


def test_open_clip_with_a_tower_of_timm():
    trunk = encoder()
    state = prefixed(trunk.state_dict(), "visual.trunk.") | {"visual.head.proj.weight": torch.randn(7, 48)}
    config = {
        "model_cfg": {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    }
    found = translated(state | {"logit_scale": torch.ones(())}, config)
    assert (found.architecture, found.model_args["num_classes"]) == ("vit_tiny_patch16_224", 7)
    assert found.left_out == ("logit_scale",)
    assert found.pretrained_cfg["mean"] == [0.5, 0.5, 0.5]
    pixels = images()
    net = built(found, **{key: value for key, value in TINY.items() if key != "num_classes"})
    with torch.no_grad():
        assert equal(net(pixels), trunk.double()(pixels) @ state["visual.head.proj.weight"].double().T)


def test_clip_resnet_is_refused():
    with pytest.raises(InputError, match="is a ResNet"):
        translated(
            {"visual.conv1.weight": torch.ones(2, 3, 3, 3), "visual.layer1.0.conv1.weight": torch.ones(2, 2, 1, 1)}
        )


PROJECTION = {"head.mlp.0.weight": torch.ones(8, 48), "head.last_layer.weight_g": torch.ones(4, 1)}
RECIPES: dict[str, Any] = {
    "MAE": (
        lambda state: (
            state
            | {
                "mask_token": torch.ones(1, 1, 32),
                "decoder_embed.weight": torch.ones(32, 48),
                "decoder_blocks.0.norm1.weight": torch.ones(32),
            }
        ),
        {"mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight"},
    ),
    "DINO": (lambda state: prefixed(state, "backbone.") | PROJECTION, set(PROJECTION)),
    "iBOT": (
        lambda state: prefixed(state, "backbone.") | PROJECTION | {"backbone.masked_embed": torch.ones(1, 48)},
        {*PROJECTION, "backbone.masked_embed"},
    ),
    "MoCo-v3": (
        lambda state: (
            prefixed(state, "base_encoder.")
            | prefixed(state, "momentum_encoder.")
            | {"base_encoder.head.0.weight": torch.ones(8, 48), "predictor.0.weight": torch.ones(8, 8)}
        ),
        None,
    ),
}


@pytest.mark.parametrize("method", RECIPES)
def test_self_supervised_encoders(method):
    wrap, aside = RECIPES[method]
    net = encoder()
    found = translated(wrap(net.state_dict()))
    assert (found.origin, found.architecture) == (method, None)  # of no published size, so the heads are not known
    assert aside is None or set(found.left_out) == aside
    assert found.state.keys() == net.state_dict().keys()
    assert found.pretrained_cfg["mean"] == list(IMAGENET_DEFAULT_MEAN)
    assert same_outputs(built(found, "vit_base_patch16_224", num_heads=3), net)


def test_a_classifier_beside_the_encoder_is_kept():
    state = (
        prefixed(encoder().state_dict(), "backbone.")
        | PROJECTION
        | {"head.weight": torch.ones(5, 48), "head.bias": torch.ones(5)}
    )
    found = translated(state)
    assert found.model_args["num_classes"] == 5
    assert "head.weight" in found.state


@pytest.mark.parametrize(("wrap", "heads"), [("base_encoder.", 12), ("backbone.", 6)])
def test_small_vit_of_moco_has_twice_the_heads(wrap, heads):
    with torch.device("meta"):
        net = timm.create_model("vit_small_patch16_224", num_classes=0)
    state = prefixed(net.state_dict(), wrap) | PROJECTION
    found = translated(state)
    assert (found.architecture, found.model_args["num_heads"]) == ("vit_small_patch16_224", heads)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("chunked", [False, True])
def test_dinov2_of_its_authors(registers, chunked):
    """Their network has positions for the class token; timm's without them is told the sum."""
    net = encoder("vit_small_patch14_dinov2", img_size=32)
    state = dict(net.state_dict()) | {"mask_token": torch.ones(1, 48)}
    if registers:
        state["register_tokens"] = torch.randn(1, registers, 48)
    if chunked:
        state = {name.replace("blocks.", "blocks.0.", 1): tensor for name, tensor in state.items()}
        state = prefixed(state, "backbone.") | {"dino_head.mlp.0.weight": torch.ones(8, 48)}
    found = translated(state)
    assert found.origin == "DINOv2"
    ours = built(found, f"vit_base_patch14{'_reg4' if registers else ''}_dinov2", num_heads=3)
    if not registers:
        assert same_outputs(ours, net)
        return
    theirs = net.double()
    pixels, tokens = images(), state[f"{'backbone.' if chunked else ''}register_tokens"].double().expand(2, -1, -1)
    with torch.no_grad():
        x = theirs._pos_embed(theirs.patch_embed(pixels))
        x = theirs.norm(theirs.blocks(torch.cat([x[:, :1], tokens, x[:, 1:]], dim=1)))
        assert equal(ours(pixels), x[:, 0])


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
