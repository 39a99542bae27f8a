"""Which timm architecture a checkpoint's tensors are of."""

import re
from pathlib import Path

import pytest
import timm
import torch
from support.checkpoints import make_deit, same_weights, saved
from support.networks import randomise_

from prune_realloc.checkpoints.found import Checkpoint, with_weights
from prune_realloc.checkpoints.load import load_model
from prune_realloc.checkpoints.recognise import recognise_unlisted
from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of, traced
from prune_realloc.families.inputs import input_shape
from prune_realloc.models.efficientvit import EfficientVit


@pytest.fixture(scope="module")
def deit():
    return make_deit()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {"num_classes": 9}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 98}),
        ("vit_small_patch14_dinov2", {"img_size": 98}),
        ("deit_tiny_patch16_224", {"in_chans": 1, "num_classes": 2, "img_size": 64}),
        ("vit_tiny_r_s16_p8_224", {"num_classes": 3}),
        ("levit_128s", {"num_classes": 3}),
    ],
)
def test_architecture_from_the_shapes(tmp_path, name, args):
    model = randomise_(timm.create_model(name, **args))
    net = load_model(ckpt=saved(tmp_path / f"{name.split('_')[0]}.pth", model.state_dict()))
    assert type(net) is type(model)
    assert same_weights(net, model)
    assert (net.num_classes, input_shape(net)) == (model.num_classes, input_shape(model))


def test_where_several_models_fit_the_error_lists_them(tmp_path, deit):
    path = saved(tmp_path / "checkpoint.pth", deit.state_dict())
    with pytest.raises(InputError, match=r"deit_tiny_patch16_224, .*vit_tiny_patch16_224.*--model"):
        load_model(ckpt=path)
    assert load_model("vit_tiny_patch16_224", ckpt=path).pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert load_model(ckpt=path.rename(tmp_path / "deit_tiny_patch16_224-a1.pth")).pretrained_cfg["mean"][0] == 0.485


def test_the_two_efficientvits_are_told_apart(tmp_path):
    msra, mit = (
        saved(tmp_path / f"{name}.pth", timm.create_model(name).state_dict())
        for name in ("efficientvit_m0", "efficientvit_b0")
    )
    assert isinstance(load_model(ckpt=msra), EfficientVit)
    other = load_model(ckpt=mit)
    assert other.pretrained_cfg["architecture"] == "efficientvit_b0"
    assert family_of(other) is traced


@pytest.mark.parametrize(
    "name", ["efficientvit_m0", "densenet121", "crossvit_9_240", "tresnet_m", "samvit_base_patch16"]
)
def test_names_that_look_like_wrappers_are_a_networks_own(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    for prefix in ("", "module."):
        found = with_weights(
            Checkpoint({}), {prefix + key: value for key, value in state.items()}, Path("net.pth"), None
        )
        assert found.state.keys() == state.keys()


def test_what_is_of_no_layout_is_named_without_building_a_network(monkeypatch):
    """Building one of each of timm's modules took eight seconds."""
    with torch.device("meta"):
        state = timm.create_model("levit_128s").state_dict()
    others = {f"theirs.{name}": tensor for name, tensor in state.items()}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("a network was built"))
    with pytest.raises(InputError, match=r"tensors .* of no known layout; name it with --model"):
        recognise_unlisted(others, {}, Path("net.pth"))
    kinds = {re.sub(r"\d+", "#", name) for name in state}
    more = state | dict.fromkeys(("other.weight", "other.bias"), torch.zeros(1))
    share = f"{len(kinds) / (len(kinds) + 2):.0%}"
    with pytest.raises(InputError, match=rf"nearest to levit_\w+'s, {share} of them in common"):
        recognise_unlisted(more, {}, Path("net.pth"))
