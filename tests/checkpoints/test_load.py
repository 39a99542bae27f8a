"""A name or a checkpoint -> a network with its weights."""

import json
import os

import pytest
import timm
import torch
from support.checkpoints import DEIT, make_deit, same_weights, saved
from support.networks import build
from torch import nn

from prune_realloc.checkpoints.load import DEMO, load_model, new_model
from prune_realloc.checkpoints.rebuild import builder
from prune_realloc.core.errors import InputError
from prune_realloc.runtime.networks import model_identity


@pytest.fixture(scope="module")
def deit():
    return make_deit()


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


@pytest.fixture
def published(monkeypatch):
    """timm as if it could fetch: what it is asked for, with new weights. Returns the arguments of each call."""
    asked, create = [], timm.create_model

    def fetch(name, pretrained=False, **args):
        asked.append((name, pretrained, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")))
        return create(name, **args)

    monkeypatch.setattr(timm, "create_model", fetch)
    return asked


def test_published_weights_are_fetched_without_pickles(published, monkeypatch):
    for before in (None, "0"):
        if before is not None:
            monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
        net = load_model(DEIT, pretrained=True)
        assert isinstance(net, nn.Module)
        assert model_identity(net)["architecture"] == DEIT
        assert published.pop() == (DEIT, True, "1")
        assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


def test_published_weights_that_cannot_be_had(published):
    with pytest.raises(InputError, match="exclude each other"):
        load_model(DEIT, ckpt="x.pth", pretrained=True)
    with pytest.raises(InputError, match="cannot be created"):
        load_model(DEIT, pretrained=True, model_args={"depth": "deep"})


@pytest.mark.parametrize("args", [{}, {"pretrained": False}, {"ema": True}, {"model_args": {"num_classes": 10}}])
def test_a_name_alone_has_no_weights(args):
    with pytest.raises(InputError, match=rf"model '{DEIT}' comes without weights.*--ckpt.*--pretrained"):
        load_model(DEIT, **args)


def test_a_classifier_of_another_size_would_be_new(published):
    with pytest.raises(InputError, match=r"num_classes 10: the published weights of .* know 1000 classes"):
        load_model(DEIT, pretrained=True, model_args={"num_classes": 10})
    assert load_model(DEIT, pretrained=True, model_args={"num_classes": 0}).num_classes == 0


def test_loading_leaves_the_callers_generator_where_it_was():
    torch.manual_seed(3)
    load_model()
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)


def test_a_folder_by_timms_name_is_a_checkpoint():
    nets = [load_model(), *(load_model(f"local-dir:{DEMO}", pretrained=pretrained) for pretrained in (False, True))]
    assert len({model_identity(net)["weights_sha256"] for net in nets}) == 1
    assert nets[0].origin == nets[1].origin == nets[2].origin
    with pytest.raises(InputError, match="ckpt '/nowhere' does not exist"):
        load_model("local-dir:/nowhere")


def test_what_only_pretrained_cfg_states_is_noted_of_a_new_network(tmp_path):
    """timm takes channels and size from there, so whoever builds the network from its arguments must have them."""
    config = {"input_size": [1, 28, 28], "num_classes": 7, "fixed_input_size": True}
    args = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 7}
    content = {"architecture": "deit_tiny_patch16_224", "num_classes": 7, "model_args": args, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    name, noted = builder(new_model(tmp_path))
    assert (name, noted) == ("deit_tiny_patch16_224", {"in_chans": 1, "num_classes": 7, "img_size": [28, 28]} | args)
    assert list(noted)[:3] == ["in_chans", "num_classes", "img_size"]
