"""A file's tensors and what it states; no pickle is executed."""

import argparse
import json
import pickle

import pytest
import safetensors.torch
import timm
import torch
from support.checkpoints import DEIT, Hostile, make_deit, same_weights, saved
from support.networks import TINY, build, randomise_
from timm.models import save_for_hf

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError


@pytest.fixture(scope="module")
def deit():
    return make_deit()


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
    assert net.pretrained_cfg["architecture"] == DEIT
    assert not net.training


def test_averaged_weights_by_flag(tmp_path, deit):
    averaged = {k: v + 1 for k, v in deit.state_dict().items()}
    path = saved(tmp_path / "deit.pth", {"model": deit.state_dict(), "model_ema": averaged, "arch": DEIT})
    assert same_weights(load_model(ckpt=path), deit)
    assert torch.equal(load_model(ckpt=path, ema=True).cls_token, deit.cls_token + 1)
    plain = saved(tmp_path / "plain.pth", {"state_dict": deit.state_dict(), "arch": DEIT})
    with pytest.raises(InputError, match="no averaged weights"):
        load_model(ckpt=plain, ema=True)


def test_averaged_weights_are_taken_where_the_script_does_that_wrote_the_file(tmp_path, deit):
    averaged = {k: v + 1 for k, v in deit.state_dict().items()}
    path = saved(tmp_path / "timm.pth", {"state_dict": deit.state_dict(), "state_dict_ema": averaged, "arch": DEIT})
    net = load_model(ckpt=path)
    assert torch.equal(net.cls_token, deit.cls_token + 1)
    weights = net.taken["weights"]
    assert weights.value == "timm.pth: state_dict_ema, averaged"
    assert "also holds state_dict" in weights.origin
    assert same_weights(load_model(ckpt=path, ema=False), deit)
    only = saved(tmp_path / "only.pth", {"model_ema": averaged, "arch": DEIT})
    assert torch.equal(load_model(ckpt=only).cls_token, deit.cls_token + 1)
    with pytest.raises(InputError, match="averaged weights only"):
        load_model(ckpt=only, ema=False)


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


def test_the_license_of_published_weights_is_not_that_of_every_file(tmp_path, deit):
    """timm's name alone says nothing of whose weights these are; a tag, or the file itself, does."""
    bare = saved(tmp_path / "net.pth", {"state_dict": deit.state_dict(), "arch": DEIT})
    assert {"license", "tag"} & load_model(ckpt=bare).pretrained_cfg.keys() == set()
    tagged = saved(tmp_path / "tagged.pth", {"state_dict": deit.state_dict(), "arch": f"{DEIT}.fb_in1k"})
    for net in (load_model(ckpt=tagged), load_model(f"{DEIT}.fb_in1k", ckpt=bare)):
        assert (net.pretrained_cfg["license"], net.pretrained_cfg["tag"]) == ("apache-2.0", "fb_in1k")


def test_safetensors_and_folder(tmp_path):
    model = build()
    save_for_hf(model, tmp_path / "folder", model_args=TINY, safe_serialization=True)
    assert same_weights(load_model(ckpt=tmp_path / "folder"), model)
    alone = tmp_path / "folder" / "model.safetensors"
    assert same_weights(load_model("vit_tiny_patch16_224", ckpt=alone, model_args={"embed_dim": 48, "depth": 2}), model)
    assert safetensors.torch.load_file(alone).keys() == model.state_dict().keys()


@pytest.mark.parametrize("protocol", ["torch", "legacy", "pickle"])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, protocol):
    marker, path = tmp_path / "owned", tmp_path / "hostile.pth"
    content = {"model": {"x": torch.zeros(1)}, "trap": Hostile(marker)}
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(InputError, match=r"calls (posix|nt)\.mkdir|a pickle that torch did not write") as error:
        load_model(DEIT, ckpt=path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(path, weights_only=False) if protocol != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the trap would have worked"


def test_a_whole_pickled_module_is_refused_with_the_reason(tmp_path, deit):
    path = saved(tmp_path / "module.pth", deit)
    with pytest.raises(InputError, match=r"pickled whole \(timm\.models\.vision_transformer\.VisionTransformer\)"):
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
            load_model(DEIT, ckpt=tmp_path / name)
        assert "\n" not in str(error.value), name


def test_contents_that_are_no_network_are_refused(tmp_path, deit):
    state = deit.state_dict()
    cases = {
        "list": ([1, 2], "not a dictionary"),
        "numbers": ({"a": 1}, "no tensors"),
        "strange": ({"a": torch.zeros(1)}, "no known layout"),
        "transformers": ({"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(1)}, "no known layout"),
        "nan": (state | {"norm.bias": torch.full((192,), float("nan"))}, "norm.bias has NaN"),
        "short": ({k: v for k, v in state.items() if k != "norm.bias"}, "without norm.bias"),
    }
    for name, (content, complaint) in cases.items():
        model = None if name in ("strange", "transformers") else DEIT
        with pytest.raises(InputError, match=complaint):
            load_model(model, ckpt=saved(tmp_path / f"{name}.pth", content))


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(InputError, match=r"without config\.json"):
        load_model(ckpt=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON mapping"):
        load_model(ckpt=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": DEIT}))
    with pytest.raises(InputError, match=r"none of model\.safetensors"):
        load_model(ckpt=tmp_path)


def test_reading_leaves_the_pickles_that_the_program_lets_in_as_they_were(tmp_path, deit):
    path = saved(tmp_path / "deit_tiny.pth", {"model": deit.state_dict(), "args": argparse.Namespace(lr=0.1)})
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    load_model(DEIT, ckpt=path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([argparse.Namespace]):
        load_model(DEIT, ckpt=path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_a_config_that_nests_without_end_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no JSON mapping"):
        load_model(ckpt=tmp_path)
