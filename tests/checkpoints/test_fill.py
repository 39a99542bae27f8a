"""A checkpoint's tensors in the network that they are for."""

import re

import pytest
import timm
import torch
from support.checkpoints import DEIT, make_deit, same_weights, saved
from support.networks import randomise_

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError


@pytest.fixture(scope="module")
def deit():
    return make_deit()


def test_original_releases_are_renamed(tmp_path):
    dino = randomise_(timm.create_model("vit_small_patch14_reg4_dinov2", img_size=98))
    original = {k.replace("reg_token", "register_tokens"): v for k, v in dino.state_dict().items()}
    original["mask_token"] = torch.zeros(1, 384)
    original["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), original["pos_embed"]], dim=1)
    net = load_model(ckpt=saved(tmp_path / "dinov2_vits14_reg4.pth", original), model="vit_small_patch14_reg4_dinov2")
    assert torch.equal(net.reg_token, dino.reg_token)
    deit3 = randomise_(timm.create_model("deit3_small_patch16_224"))
    original = {re.sub(r"ls([12])\.gamma", r"gamma_\1", k): v for k, v in deit3.state_dict().items()}
    assert same_weights(load_model(ckpt=saved(tmp_path / "deit3_small.pth", {"model": original})), deit3)


def test_a_checkpoint_that_does_not_fit_the_model(tmp_path, deit):
    path = saved(tmp_path / "deit.pth", deit.state_dict())
    with pytest.raises(InputError, match=r"does not fit model deit_small.*192\), the model has .*384\)"):
        load_model("deit_small_patch16_224", ckpt=path)
    with pytest.raises(InputError, match="unknown to timm"):
        load_model("deit_huge", ckpt=path)
    with pytest.raises(InputError, match="cannot be built"):
        load_model(DEIT, ckpt=path, model_args={"wings": 2})
    with pytest.raises(InputError, match="did you mean"):
        load_model("deit_tiny_patch16")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensor: tensor.to_sparse(), "norm.weight is sparse; save it as a plain tensor of floats"),
        (lambda tensor: tensor.to("meta"), "norm.weight is without values"),
        (lambda tensor: (10 * tensor).to(torch.int8), "norm.weight is of torch.int8, not of floats"),
        (lambda tensor: tensor > 0, "norm.weight is of torch.bool, not of floats"),
        (lambda tensor: tensor.to(torch.complex64), "norm.weight is of torch.complex64, not of floats"),
    ],
)
def test_tensors_that_are_no_plain_floats_are_refused(tmp_path, deit, change, complaint):
    state = deit.state_dict()
    state["norm.weight"] = change(state["norm.weight"])
    with pytest.raises(InputError, match=f"does not fit model {DEIT}: {complaint}"):
        load_model(DEIT, ckpt=saved(tmp_path / "deit.pth", state))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_size_are_weights(tmp_path, deit, kind):
    state = {name: tensor.to(kind) for name, tensor in deit.state_dict().items()}
    net = load_model(DEIT, ckpt=saved(tmp_path / "deit.pth", state))
    torch.testing.assert_close(net.norm.weight, deit.norm.weight, rtol=1e-2, atol=1e-2)


def test_widths_that_the_tensors_tell_are_named_as_flags(tmp_path):
    small = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5, **small)
    path = saved(tmp_path / "a.pth", net.state_dict())
    with pytest.raises(
        InputError, match=r"give --model-arg embed_dim=48 --model-arg depth=2, .*num_heads=\.\.\., which"
    ):
        load_model("vit_tiny_patch16_224", ckpt=path)
    given = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    assert same_weights(load_model("vit_tiny_patch16_224", ckpt=path, model_args=given), net)
