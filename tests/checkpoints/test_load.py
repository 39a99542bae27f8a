import argparse
import json
import os
import pickle
import re

import pytest
import safetensors.torch
import timm
import torch
from support.networks import TINY, build, randomise_
from timm.models import save_for_hf
from torch import nn

from prune_realloc.checkpoints.load import DEMO, load_model
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.runtime.networks import model_identity

# the smallest networks that timm knows by name
NAME = "deit_tiny_patch16_224"


@pytest.fixture(scope="module")
def deit():
    return randomise_(timm.create_model(NAME))


def saved(path, content):
    torch.save(content, path)
    return path


def same_weights(a, b):
    return model_identity(a)["weights_sha256"] == model_identity(b)["weights_sha256"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"module._orig_mod.model.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1))},
    ],
    ids=["bare", "deit", "ddp", "compiled", "namespace"],
)
def test_wrappings_are_taken_off(tmp_path, deit, wrap):
    path = saved(tmp_path / "deit_tiny.pth", wrap(deit.state_dict()))
    net = load_model(ckpt=path)
    assert same_weights(net, deit)
    assert net.pretrained_cfg["architecture"] == NAME
    assert not net.training


def test_averaged_weights_by_flag(tmp_path, deit):
    averaged = {k: v + 1 for k, v in deit.state_dict().items()}
    path = saved(tmp_path / "deit.pth", {"state_dict": deit.state_dict(), "state_dict_ema": averaged, "arch": NAME})
    assert same_weights(load_model(ckpt=path), deit)
    assert torch.equal(load_model(ckpt=path, ema=True).cls_token, deit.cls_token + 1)
    plain = saved(tmp_path / "plain.pth", {"state_dict": deit.state_dict(), "arch": NAME})
    with pytest.raises(InputError, match="no averaged weights"):
        load_model(ckpt=plain, ema=True)


def test_timm_train_checkpoint_tells_architecture_and_preprocessing(tmp_path):
    args = argparse.Namespace(
        model="vit_tiny_patch16_224", mean=[0.1, 0.2, 0.3], std=None, model_kwargs={"num_heads": 6}
    )
    small = randomise_(timm.create_model("vit_tiny_patch16_224", num_heads=6, num_classes=7))
    path = saved(
        tmp_path / "last.pth.tar", {"state_dict": small.state_dict(), "arch": "vit_tiny_patch16_224", "args": args}
    )
    net = load_model(ckpt=path)
    assert (net.blocks[0].attn.num_heads, net.num_classes) == (6, 7)
    assert net.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]


def test_safetensors_and_folder(tmp_path):
    model = build()
    save_for_hf(model, tmp_path / "folder", model_args=TINY, safe_serialization=True)
    assert same_weights(load_model(ckpt=tmp_path / "folder"), model)
    alone = tmp_path / "folder" / "model.safetensors"
    assert same_weights(load_model("vit_tiny_patch16_224", ckpt=alone, model_args={"embed_dim": 48, "depth": 2}), model)
    assert safetensors.torch.load_file(alone).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {"num_classes": 9}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 98}),
        ("vit_small_patch14_dinov2", {"img_size": 98}),
        ("deit_tiny_patch16_224", {"in_chans": 1, "num_classes": 2, "img_size": 64}),
        ("vit_tiny_r_s16_p8_224", None),
    ],
)
def test_architecture_from_the_shapes(tmp_path, name, args):
    if args is None:  # a hybrid has a convolutional stem, so it is of no layout that we know
        path = saved(tmp_path / "hybrid.pth", timm.create_model(name).state_dict())
        with pytest.raises(InputError, match="--model"):
            load_model(ckpt=path)
        return
    model = randomise_(timm.create_model(name, **args))
    net = load_model(ckpt=saved(tmp_path / f"{name.split('_')[0]}.pth", model.state_dict()))
    assert type(net) is type(model)
    assert same_weights(net, model)
    assert (net.num_classes, net.patch_embed.img_size) == (model.num_classes, model.patch_embed.img_size)


def test_where_several_models_fit_the_error_lists_them(tmp_path, deit):
    path = saved(tmp_path / "checkpoint.pth", deit.state_dict())
    with pytest.raises(InputError, match=r"deit_tiny_patch16_224, .*vit_tiny_patch16_224.*--model"):
        load_model(ckpt=path)
    assert load_model("vit_tiny_patch16_224", ckpt=path).pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert load_model(ckpt=path.rename(tmp_path / "deit_tiny_patch16_224-a1.pth")).pretrained_cfg["mean"][0] == 0.485


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


def test_another_input_size_resizes_the_position_embedding(tmp_path, deit):
    net = load_model(ckpt=saved(tmp_path / "deit.pth", deit.state_dict()), img_size=64)
    assert net.pos_embed.shape[1] == 17
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(InputError, match="multiple of the patch size"):
        load_model(ckpt=tmp_path / "deit.pth", img_size=65)


def test_a_grid_that_is_not_square_needs_the_input_size(tmp_path):
    model = build(img_size=(16, 40))
    path = saved(tmp_path / "wide.pth", model.state_dict())
    args = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    with pytest.raises(InputError, match="--img-size"):
        load_model("vit_tiny_patch16_224", ckpt=path, model_args=args)
    assert same_weights(load_model("vit_tiny_patch16_224", ckpt=path, model_args=args | {"img_size": (16, 40)}), model)


def test_the_two_efficientvits_are_told_apart(tmp_path):
    msra, mit = (
        saved(tmp_path / f"{name}.pth", timm.create_model(name).state_dict())
        for name in ("efficientvit_m0", "efficientvit_b0")
    )
    assert isinstance(load_model(ckpt=msra), EfficientVit)
    with pytest.raises(InputError, match=r"efficientvit_b0 \(MIT's EfficientViT\)"):
        load_model(ckpt=mit)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", ["torch", "legacy", "pickle"])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, protocol):
    marker, path = tmp_path / "owned", tmp_path / "hostile.pth"
    content = {"model": {"x": torch.zeros(1)}, "trap": Hostile(marker)}
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(InputError, match=r"refused|damaged") as error:
        load_model(NAME, ckpt=path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(path, weights_only=False) if protocol != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the trap would have worked"


def test_a_whole_pickled_module_is_refused_with_the_reason(tmp_path, deit):
    path = saved(tmp_path / "module.pth", deit)
    with pytest.raises(InputError, match=r"calls timm\.models\.vision_transformer\.VisionTransformer"):
        load_model(ckpt=path)


def test_damaged_files_are_refused_in_one_line(tmp_path, deit):
    whole = saved(tmp_path / "deit.pth", deit.state_dict()).read_bytes()
    safetensors.torch.save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    cases = {
        "missing.pth": (None, "does not exist"),
        "empty.pth": (b"", "is empty"),
        "cut.pth": (whole[: len(whole) // 2], "damaged"),
        "text.pth": (b"these are no weights", "refused|damaged"),
        "image.pth": (b"\x89PNG\r\n\x1a\n" + bytes(100), "refused|damaged"),
        "cut.safetensors": ((tmp_path / "deit.safetensors").read_bytes()[:5000], "not a whole safetensors"),
        "text.safetensors": (b"these are no weights", "not a whole safetensors"),
    }
    for name, (content, complaint) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=complaint) as error:
            load_model(NAME, ckpt=tmp_path / name)
        assert "\n" not in str(error.value), name


def test_contents_that_are_no_network_are_refused(tmp_path, deit):
    state = deit.state_dict()
    cases = {
        "list": ([1, 2], "not a dictionary"),
        "numbers": ({"a": 1}, "no tensors"),
        "strange": ({"a": torch.zeros(1)}, "no known layout"),
        "transformers": ({"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(1)}, "Hugging Face"),
        "nan": (state | {"norm.bias": torch.full((192,), float("nan"))}, "norm.bias has NaN"),
        "short": ({k: v for k, v in state.items() if k != "norm.bias"}, "without norm.bias"),
    }
    for name, (content, complaint) in cases.items():
        model = None if name in ("strange", "transformers") else NAME
        with pytest.raises(InputError, match=complaint):
            load_model(model, ckpt=saved(tmp_path / f"{name}.pth", content))


def test_a_checkpoint_that_does_not_fit_the_model(tmp_path, deit):
    path = saved(tmp_path / "deit.pth", deit.state_dict())
    with pytest.raises(InputError, match=r"does not fit model deit_small.*192\), the model has .*384\)"):
        load_model("deit_small_patch16_224", ckpt=path)
    with pytest.raises(InputError, match="unknown to timm"):
        load_model("deit_huge", ckpt=path)
    with pytest.raises(InputError, match="cannot be built"):
        load_model(NAME, ckpt=path, model_args={"wings": 2})
    with pytest.raises(InputError, match="did you mean"):
        load_model("deit_tiny_patch16")


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(InputError, match=r"without config\.json"):
        load_model(ckpt=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a model configuration"):
        load_model(ckpt=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME}))
    with pytest.raises(InputError, match=r"none of model\.safetensors"):
        load_model(ckpt=tmp_path)


def test_model_by_name_needs_no_file():
    net = load_model(NAME)
    assert isinstance(net, nn.Module)
    assert model_identity(net)["architecture"] == NAME
    with pytest.raises(InputError, match="exclude each other"):
        load_model(NAME, ckpt="x.pth", pretrained=True)
    with pytest.raises(InputError, match="cannot be created"):
        load_model(NAME, model_args={"depth": "deep"})


def test_a_folder_by_timms_name_is_a_checkpoint():
    nets = [load_model(), *(load_model(f"local-dir:{DEMO}", pretrained=pretrained) for pretrained in (False, True))]
    assert len({model_identity(net)["weights_sha256"] for net in nets}) == 1
    assert nets[0].origin == nets[1].origin == nets[2].origin
    with pytest.raises(InputError, match="ckpt '/nowhere' does not exist"):
        load_model("local-dir:/nowhere")
