"""Checkpoints from the field at the command line: read right, or exit code 2 and one true line."""

import json
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.networks import TINY
from support.right import pictures, right_network, write_pictures

from prune_realloc import save_pruned

NAME = "vit_tiny_patch16_224"
PICTURES = pictures(4)
NAMES = ("ant", "bee", "cat", "dog")
MODEL = ["--model", NAME, f"--model-arg=embed_dim={TINY['embed_dim']}", f"--model-arg=depth={TINY['depth']}"]


@pytest.fixture(scope="module")
def net():
    return right_network(PICTURES, 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"), PICTURES, NAMES)


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "net.pth")
        return tmp_path / "net.pth"

    return save


def top1(run_cli, *args):
    code, out, err = run_cli("eval", *args, "--json")
    assert code == 0, err
    found = json.loads(out)
    return found["top1"], found["taken"], err


def refused(run_cli, *args):
    code, _, err = run_cli(*args)
    lines = [line for line in err.splitlines() if "\u2501" not in line]
    assert (code, len(lines)) == (2, 1), err
    return lines[0]


def body_of(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def head_of(state):
    return {"weight": state["head.weight"], "bias": state["head.bias"]}


def noisy(state):
    return {name: tensor + torch.randn(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_averaged_weights_are_taken_or_named(run_cli, net, data, saved, plain, averaged):
    """timm loads them, DeiT does not."""
    state = net.state_dict()
    by_default = averaged == "state_dict_ema"
    path = saved({plain: noisy(state) if by_default else state, averaged: state if by_default else noisy(state)})
    share, taken, err = top1(run_cli, path, *MODEL, "--data", data)
    assert share == 1
    other = plain if by_default else averaged
    assert f"it also holds {other}" in taken["weights"]["origin"]
    assert other in err
    flag = "--no-ema" if by_default else "--ema"
    assert top1(run_cli, path, *MODEL, flag, "--data", data)[0] < 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, told: {"model": state, "args": Namespace(**told)},
        lambda state, told: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": told},
        lambda state, told: {"net": state, "config": {"model": told}},
    ],
)
def test_heads_that_the_file_states(run_cli, data, saved, wrap):
    state = right_network(PICTURES, 4, num_heads=12).state_dict()
    share, taken, _ = top1(run_cli, saved(wrap(state, {"model": NAME, "num_heads": 12})), *MODEL, "--data", data)
    assert (share, taken["heads"]["value"]) == (1, 12)
    assert "num_heads in the file" in taken["heads"]["origin"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"module": state},
        lambda state: {"net": state, "acc": 0.9},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model": {"backbone": body_of(state), "head": head_of(state)}, "epoch": 3},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(4)}},
        lambda state: {"state_dict": state, "best_acc1": np.float64(81.3)},
    ],
    ids=["DeepSpeed", "net", "nested", "a head apart", "Lightning with a loss", "numpy"],
)
def test_weights_one_level_down_and_beside_other_things(run_cli, net, data, saved, wrap):
    assert top1(run_cli, saved(wrap(net.state_dict())), *MODEL, "--data", data)[0] == 1


def test_a_file_without_weights_names_its_keys(run_cli, saved):
    line = refused(run_cli, "analyze", saved({"epoch": 3, "acc": 0.9}), "--scorer", "magnitude")
    assert "holds no tensors; its keys are 'epoch', 'acc'" in line


def test_folders_of_transformers(run_cli, net, data, tmp_path):
    wrapper, vit = tmp_path / "wrapper", tmp_path / "vit"
    wrapper.mkdir(), vit.mkdir()
    save_file({f"timm_model.{k}": v for k, v in net.state_dict().items()}, wrapper / "model.safetensors")
    config = {"architecture": NAME, "model_type": "timm_wrapper", "num_classes": 4, "model_args": TINY}
    (wrapper / "config.json").write_text(json.dumps(config | {"model_args": TINY | {"num_classes": 4}}))
    assert top1(run_cli, wrapper, "--data", data)[0] == 1
    save_file({"vit.embeddings.cls_token": torch.zeros(1)}, vit / "model.safetensors")
    (vit / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"], "model_type": "vit"}))
    assert "transformers' ViTForImageClassification" in refused(run_cli, "eval", vit, "--data", data)


def test_a_rectangular_network_says_how_its_size_is_given(run_cli, saved):
    path = saved(timm.create_model(NAME, **(TINY | {"img_size": (32, 64)})).state_dict())
    options = (*MODEL, "--batch-size", 1, "--seconds", 0.01)
    assert "not a square grid; give the input size with --img-size HEIGHT,WIDTH" in refused(
        run_cli, "bench", path, *options
    )
    code, out, _ = run_cli("bench", path, *options, "--img-size", "32,64", "--json")
    assert (code, json.loads(out)["input_shape"]) == (0, [3, 32, 64])


def test_networks_that_no_family_declares_are_analysed(run_cli, tmp_path):
    torch.save({"model": timm.create_model("pit_ti_224", num_classes=2).state_dict()}, tmp_path / "net.pth")
    code, out, _ = run_cli("analyze", tmp_path / "net.pth", "--scorer", "magnitude", "--json")
    assert code == 0
    assert "blocks.11.ffn" in out


def test_a_class_count_of_its_own(run_cli, net, tmp_path, saved):
    """A file of four classes, and data of three."""
    data = tmp_path / "three"
    for part in ("train", "val"):
        write_pictures(data / part, pictures(3, each=4), NAMES)
    path = saved({"model": net.state_dict(), "args": {"model": NAME, "model_kwargs": TINY | {"num_classes": 4}}})
    settings = ("--set", "epochs=1", "--set", "batch_size=4", "-o", tmp_path / "run", "--json")
    code, out, err = run_cli("train", path, "--data", data, *settings)
    assert code == 0, err
    assert json.loads(out)["taken"]["classes"]["value"].startswith("3, ant .. cat")
    config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    assert (config["num_classes"], config["pretrained_cfg"]["label_names"]) == (3, ["ant", "bee", "cat"])


def test_a_source_that_does_not_say_how_it_was_built_is_told(run_cli, net, data, saved):
    path = saved(net.state_dict())
    own = [text.replace("--model", "--source-model").replace("-model-arg", "-arg") for text in MODEL]
    code, out, err = run_cli("eval", "--ckpt", path, *MODEL, "--data", data, "--source", path, *own, "--json")
    assert code == 0, err
    assert json.loads(out)["agreement"] == 1.0
    assert "no source is named" in refused(run_cli, "eval", "--ckpt", path, *MODEL, "--data", data, *own)


def test_what_profile_takes_first_can_be_told_too(run_cli, net, saved, tmp_path):
    fast = ("--batch", 1, "--seconds", 0, "--threads", 1)
    code, _, err = run_cli("profile", saved(net.state_dict()), *MODEL, *fast, "-o", tmp_path / "profile")
    assert code == 0, err
    how = json.loads((tmp_path / "profile" / "profile.json").read_text())["how"]
    assert (how["model"], how["model_args"]["depth"]) == (NAME, TINY["depth"])


def test_a_teacher_that_does_not_say_how_it_was_built_is_told(run_cli, net, data, saved, tmp_path):
    path = saved(net.state_dict())
    own = [text.replace("--model", "--teacher-model").replace("-model-arg", "-arg") for text in MODEL]
    quick = ("--set", "epochs=1", "--set", "batch_size=4", "--eval-split", "held-out", "--samples", 4)
    where = ("--data", data, "-o", tmp_path / "run")
    save_pruned(net, tmp_path / "student")
    code, _, err = run_cli("train", tmp_path / "student", *where, *quick, "--teacher", path, *own)
    assert code == 0, err
    options = json.loads((tmp_path / "run" / "result.json").read_text())["teacher_options"]
    assert options["model"] == NAME


def test_a_bare_checkpoint_is_trained_as_what_it_is_said_to_be(run_cli, net, data, saved, tmp_path):
    path = saved(net.state_dict())
    quick = ("--set", "epochs=1", "--set", "batch_size=4", "--eval-split", "held-out", "--samples", 4)
    where = ("--data", data, "-o", tmp_path / "run")
    code, _, err = run_cli("train", path, *MODEL, *where, *quick)
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "last" / "config.json").read_text())["architecture"] == NAME
    assert "is no file of weights" in refused(
        run_cli, "train", tmp_path / "run" / "last", "--model", NAME, *where, *quick
    )
