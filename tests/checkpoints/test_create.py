"""Networks from timm's name: with new weights, and what they note of themselves."""

import pytest
import torch
from support.checkpoints import DEIT, same_weights

from prune_realloc import cut_to_widths, find_sites, load_pruned, save_pruned
from prune_realloc.checkpoints.create import create_fresh
from prune_realloc.core.errors import InputError
from prune_realloc.families.inputs import input_shape

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}


def test_new_weights_come_from_torchs_generator():
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(create_fresh(DEIT, model_args=SMALL))
    assert same_weights(*nets)
    assert not same_weights(nets[0], create_fresh(DEIT, model_args=SMALL))
    assert nets[0].origin == {"source": DEIT, "source_args": SMALL}
    assert not nets[0].training


def test_new_networks_of_another_input_size():
    assert create_fresh(DEIT, img_size=64, model_args=SMALL)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(InputError, match="multiple of the patch size"):
        create_fresh(DEIT, img_size=65, model_args=SMALL)


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("deit_tiny_patch16", {}, "did you mean"),
        (DEIT, {"depth": "deep"}, "cannot be created"),
        ("hf-hub:timm/vit", {}, "carries weights"),
        (DEIT, {"checkpoint_path": "weights.pth"}, "model_args.checkpoint_path is refused"),
    ],
)
def test_networks_that_cannot_be_created(name, args, complaint):
    with pytest.raises(InputError, match=complaint):
        create_fresh(name, model_args=args)


def test_a_network_that_is_built_for_no_size_takes_any_that_it_runs_at(tmp_path):
    net = create_fresh("efficientvit_b0", img_size=64, model_args={"num_classes": 5})
    assert input_shape(net) == (3, 64, 64)
    save_pruned(net, tmp_path)
    assert input_shape(load_pruned(tmp_path)) == (3, 64, 64)
    with pytest.raises(InputError, match=r"Levit.* does not run on images of 64 x 64 .*--model-arg img_size=64$"):
        create_fresh("levit_128s", img_size=64)


def test_a_network_that_is_built_for_a_size_is_traced_at_it(tmp_path):
    net = create_fresh("levit_128s", model_args={"num_classes": 5, "img_size": 64})
    assert input_shape(net) == (3, 64, 64)
    half = {site.name: site.width // 2 if site.axis == "ffn" else site.width for site in find_sites(net)}
    smaller, images = cut_to_widths(net, half), torch.randn(2, 3, 64, 64)
    save_pruned(smaller, tmp_path)
    assert torch.equal(load_pruned(tmp_path)(images), smaller(images))
