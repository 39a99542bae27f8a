"""Training checkpoints of networks that no family reads off their tensors."""

from argparse import Namespace

import pytest
import timm
import torch
from support.checkpoints import same_weights, saved

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError
from prune_realloc.families.inputs import input_shape

EVA, RELPOS = "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224"
SMALL = {"depth": 1, "num_classes": 7}


def trained(folder, name, options, **args):
    """A network and the checkpoint that a script wrote of it."""
    net = timm.create_model(name, **args).eval()
    content = {"state_dict": net.state_dict(), "args": Namespace(model=name, **options)}
    return net, saved(folder / "last.pth.tar", content)


@pytest.mark.parametrize("name", [EVA, RELPOS])
def test_what_the_file_states_is_taken(name, tmp_path):
    net, path = trained(
        tmp_path, name, {"img_size": 112, "num_heads": 2, "depth": 1}, img_size=112, num_heads=2, **SMALL
    )
    back, images = load_model(ckpt=path), torch.randn(1, 3, 112, 112)
    assert same_weights(back, net)
    assert torch.equal(back(images), net(images))
    assert back.taken["input size"].origin == "args.img_size in the file"
    assert back.taken["heads"].origin == "args.num_heads in the file"
    assert "stated, not taken" not in back.taken


def test_channels_of_the_images_and_classes_are_those_of_the_tensors(tmp_path):
    net, path = trained(tmp_path, EVA, {"depth": 1}, in_chans=1, **SMALL)
    back = load_model(ckpt=path)
    assert same_weights(back, net)
    assert input_shape(back) == (1, 224, 224)
    assert back.origin["source_args"] == {"depth": 1, "in_chans": 1, "num_classes": 7}


def test_what_the_network_does_not_take_is_said(tmp_path):
    net, path = trained(tmp_path, "test_resnet", {"input_size": [3, 112, 112], "depth": 5}, num_classes=7)
    back = load_model(ckpt=path)
    assert same_weights(back, net)
    said = back.taken["stated, not taken"]
    assert said.value == ["depth 5 (args.depth in the file)", "img_size (112, 112) (args.input_size in the file)"]
    assert "test_resnet" in said.origin
    assert back.taken["input size"].origin == "timm's test_resnet"


def test_what_the_tensors_contradict_is_said(tmp_path):
    _, path = trained(tmp_path, EVA, {"img_size": 112, "depth": 1}, **SMALL)
    back = load_model(ckpt=path)
    assert input_shape(back) == (3, 224, 224)
    assert back.taken["stated, not taken"].value == ["img_size (112, 112) (args.img_size in the file)"]


def test_the_size_of_the_network_itself_is_nothing_to_say(tmp_path):
    _, path = trained(tmp_path, "test_resnet", {"img_size": 160})
    assert "stated, not taken" not in load_model(ckpt=path).taken


def test_two_sizes_are_none(tmp_path):
    _, path = trained(tmp_path, RELPOS, {"img_size": 112, "input_size": 160, "depth": 1}, **SMALL)
    assert input_shape(load_model(ckpt=path)) == (3, 224, 224)


def test_what_the_user_states_counts_before(tmp_path):
    _, path = trained(tmp_path, RELPOS, {"img_size": 112, "depth": 1}, **SMALL)
    assert input_shape(load_model(ckpt=path, model_args={"img_size": 160})) == (3, 160, 160)
    with pytest.raises(InputError, match="does not fit"):
        load_model(ckpt=path, model_args={"depth": 2})
