"""Files of self-supervised training -> the encoder of the same outputs, and what lay beside it by name."""

from typing import Any

import pytest
import timm
import torch
from support.layouts import built, encoder, equal, images, prefixed, same_outputs, translated
from timm.data import IMAGENET_DEFAULT_MEAN

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


@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("method", RECIPES)
def test_self_supervised_encoders(method, wrapper):
    wrap, aside = RECIPES[method]
    net = encoder()
    found = translated(prefixed(wrap(net.state_dict()), wrapper))
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
