import numpy as np
import torch
from support.networks import TINY, build

from prune_realloc.pruning.sites import find_sites


def test_the_graph_leaves_the_model_alone(tiny_vit, images_BCHW):
    before = tiny_vit(images_BCHW)
    tiny_vit.train()
    find_sites(tiny_vit)
    assert tiny_vit.training
    assert torch.equal(tiny_vit.eval()(images_BCHW), before)


def test_slices_of_the_embedding_by_hand():
    model = build(depth=1)
    embed = find_sites(model)[0]
    block = "blocks.0."
    assert {(part.parameter, part.dim) for part in embed.slices} == {
        ("cls_token", 2),
        ("pos_embed", 2),
        ("patch_embed.proj.weight", 0),
        ("patch_embed.proj.bias", 0),
        (block + "norm1.weight", 0),
        (block + "norm1.bias", 0),
        (block + "attn.qkv.weight", 1),
        (block + "attn.proj.weight", 0),
        (block + "attn.proj.bias", 0),
        (block + "norm2.weight", 0),
        (block + "norm2.bias", 0),
        (block + "mlp.fc1.weight", 1),
        (block + "mlp.fc2.weight", 0),
        (block + "mlp.fc2.bias", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("head.weight", 1),
    }
    assert all((part.index[:, 0] == np.arange(TINY["embed_dim"])).all() for part in embed.slices)
