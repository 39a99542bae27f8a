import numpy as np
import torch
from support.networks import build

from prune_realloc.pruning.gates import Moments
from prune_realloc.pruning.scorers import gradient_scores, weight_scores
from prune_realloc.pruning.sites import find_sites


def test_scorers_by_hand():
    # four images; s of the one unit: 1, 3 in the even half, -2, 0 in the odd half
    moments = Moments(
        count=np.array([2.0, 2.0]),
        first={"ffn": np.array([[4.0], [-2.0]])},
        second={"ffn": np.array([[10.0], [4.0]])},
        loss=0.0,
        right=None,
        entropy=None,
    )
    value = {name: gradient_scores(name, moments, labelled=True)["ffn"][0] for name in ("taylor", "fisher", "loss")}
    assert value == {"taylor": 0.5, "fisher": 1.75, "loss": 1.25}
    assert gradient_scores("loss", moments, labelled=True, half=0)["ffn"][0] == 0.5  # -2 + 5 / 2
    assert gradient_scores("loss", moments, labelled=False)["ffn"][0] == 1.75  # first order is zero in expectation


def test_magnitude_by_hand():
    model = build(embed_dim=2, num_heads=1, depth=1, mlp_ratio=1)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.blocks[0].mlp.fc1.weight[0] = torch.tensor([3.0, 0.0])
        model.blocks[0].mlp.fc1.bias[0] = -4.0
        model.blocks[0].mlp.fc2.weight[:, 0] = torch.tensor([0.0, 12.0])
        model.blocks[0].attn.qkv.weight[1] = torch.tensor([1.0, 2.0])  # q, dimension 1
        model.blocks[0].attn.qkv.weight[3] = torch.tensor([0.0, 2.0])  # k, dimension 1
    sites = find_sites(model)
    l2, l1 = weight_scores("magnitude", model, sites), weight_scores("magnitude-l1", model, sites)
    assert l2["blocks.0.ffn"].tolist() == [13.0, 0.0]
    assert l1["blocks.0.ffn"].tolist() == [19.0, 0.0]
    assert l2["blocks.0.qk"].tolist() == [0.0, 3.0]
    assert l2["blocks.0.heads"].tolist() == [3.0]


def test_random_is_seeded(tiny_vit):
    sites = find_sites(tiny_vit)
    first, again, other = (weight_scores("random", tiny_vit, sites, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["embed"], other["embed"])
