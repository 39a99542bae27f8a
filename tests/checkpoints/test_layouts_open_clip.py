"""Image towers of open_clip and OpenAI's CLIP -> timm's networks of the same outputs."""

from typing import Any

import pytest
import torch
from support.layouts import built, encoder, equal, images, prefixed, same_outputs, translated
from support.networks import TINY, randomise_
from timm.data import OPENAI_CLIP_MEAN

from prune_realloc.core.errors import InputError


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
