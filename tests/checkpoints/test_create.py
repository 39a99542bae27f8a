"""Networks from timm's name: with new weights, and what they note of themselves."""

import pytest
import torch
from support.checkpoints import DEIT, same_weights

from prune_realloc.checkpoints.create import create_fresh
from prune_realloc.core.errors import InputError

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
