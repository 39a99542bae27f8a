import copy

import numpy as np
import pytest
import torch
from support.moments import LAYOUTS, built, folded, images_of
from support.networks import build
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of, vit
from prune_realloc.families.vit import inferred_args, to_timm_keys
from prune_realloc.pruning.sites import find_sites


def test_slices_of_attention_by_hand():
    sites = {s.name: s for s in find_sites(build(embed_dim=6, num_heads=3))}
    qk, v, heads = (sites[f"blocks.0.{axis}"] for axis in ("qk", "v", "heads"))
    # rows of qkv: q 0-5, k 6-11, v 12-17, two for each head
    assert qk.slices[0].index.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert [part.index.ravel().tolist() for part in v.slices] == [[12, 13, 14, 15, 16, 17]] * 2 + [[0, 1, 2, 3, 4, 5]]
    removed = [
        sorted(np.concatenate([p.index[1] for p in heads.slices if p.parameter.endswith(name)]).tolist())
        for name in ("qkv.weight", "proj.weight")
    ]
    assert removed == [[2, 3, 8, 9, 14, 15], [2, 3]]
    assert (qk.groups, v.groups, heads.groups, qk.width) == (3, 3, 1, 2)


def test_networks_with_other_blocks_are_not_of_this_family():
    model = build()
    assert vit.owns(model)
    model.blocks[1] = nn.Identity()
    assert not vit.owns(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_branches_add_up_to_the_forward_pass(layout):
    model, images = built(layout).double(), images_of(6)
    family = family_of(model)
    with torch.no_grad():
        x = family.stream_input(model, "embed", images)
        for branch in family.describe(model).branches:
            x = x + family.branch_output(model, branch, x)
        torch.testing.assert_close(family.head_output(model, x), model(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folding_layer_scale_leaves_the_function(layout):
    model, images = built(layout).double(), images_of(6)
    whole = folded(copy.deepcopy(model))
    scaled = layout in ("layer_scale_no_embed_class", "registers", "swiglu")
    changed = {name for name, p in whole.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    layers = ("attn.proj.weight", "attn.proj.bias", "ls1.gamma", "mlp.fc2.weight", "mlp.fc2.bias", "ls2.gamma")
    assert changed == ({f"blocks.{i}.{layer}" for i in (0, 1) for layer in layers} if scaled else set())
    assert all((p == 1).all() for name, p in whole.named_parameters() if name.endswith("gamma"))
    with torch.no_grad():
        torch.testing.assert_close(whole(images), model(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "head.weight"])
@pytest.mark.parametrize("change", [lambda tensor: tensor[None], lambda tensor: tensor.flatten()[0]])
def test_tensors_with_other_axes_are_named(name, change):
    state = build().state_dict()
    state[name] = change(state[name])
    with pytest.raises(
        InputError, match=rf"{name} has the shape \(.*\), not one of \d axes; the checkpoint is damaged"
    ):
        inferred_args(state, None)


def test_what_timm_stumbles_over_is_one_kind_of_error():
    net = build()
    state = {name: tensor.flatten()[0] for name, tensor in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="timm stumbles over the shape of a tensor"):
        to_timm_keys(state, net)
