"""Layer norms of other epsilons: under names that files hold, so that a saved network computes the same."""

import pytest
import timm
import torch
from support.layouts import equal, images
from support.networks import TINY, randomise_

from prune_realloc.checkpoints.create import with_origin
from prune_realloc.checkpoints.load import load_model
from prune_realloc.checkpoints.norms import norm_name
from prune_realloc.checkpoints.save import save_pruned


def test_names():
    assert norm_name(1e-12) == "layernorm1e-12"
    assert norm_name(1e-5) == "layernorm1e-05"
    assert norm_name(3e-7) is None


@pytest.mark.parametrize("epsilon", [1e-3, 1e-12])
def test_saved_network_has_its_epsilon(tmp_path, epsilon):
    args = TINY | {"norm_layer": norm_name(epsilon)}
    net = with_origin(randomise_(timm.create_model("vit_tiny_patch16_224", **args)), "vit_tiny_patch16_224", args)
    with torch.no_grad():  # tokens of a small variance, to which the epsilon matters
        for weights in (net.patch_embed.proj.weight, net.patch_embed.proj.bias, net.pos_embed, net.cls_token):
            weights.mul_(1e-3)
    save_pruned(net, tmp_path / "net")
    again = load_model(ckpt=tmp_path / "net")
    assert {module.eps for module in again.modules() if isinstance(module, torch.nn.LayerNorm)} == {epsilon}
    with torch.no_grad():
        assert equal(again(images().float()), net(images().float()))
        other = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
        other.load_state_dict(net.state_dict())
        assert not equal(other(images().float()), net(images().float()))
