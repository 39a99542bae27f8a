"""What was taken is said, each with what tells it."""

import pytest
import timm
import torch
from support.checkpoints import DEIT, make_deit, saved

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import taken_lines


@pytest.fixture(scope="module")
def state():
    return make_deit().state_dict()


def test_a_guess_is_called_one_and_the_others_are_named_with_what_differs(tmp_path, state):
    taken = load_model(ckpt=saved(tmp_path / f"{DEIT}.pth", {"model": state})).taken
    fact = taken["architecture"]
    assert (fact.value, fact.guessed) == (DEIT, True)
    assert "vit_tiny_patch16_224 has mean 0.5, std 0.5" in fact.origin
    assert taken["mean"].guessed
    assert "a guess from the file's name" in "".join(taken_lines(taken))


def test_what_is_named_is_no_guess(tmp_path, state):
    path = saved(tmp_path / "a.pth", {"model": state})
    taken = load_model(DEIT, ckpt=path).taken
    assert not any(fact.guessed for fact in taken.values())
    assert (taken["architecture"].origin, taken["mean"].origin) == ("the name given", f"timm's {DEIT}")
    assert taken["weights"].value == "a.pth: model"
    assert taken["input size"].origin == "shapes"
    stated = saved(tmp_path / "b.pth", {"model": state, "args": {"model": DEIT, "num_heads": 6, "mean": [0.1] * 3}})
    taken = load_model(ckpt=stated).taken
    assert taken["architecture"].origin == "args.model in the file"
    assert (taken["heads"].value, taken["heads"].origin) == (6, "args.num_heads in the file")
    assert (taken["mean"].value, taken["mean"].origin) == ([0.1] * 3, "args.mean in the file")
    assert load_model(ckpt=stated, model_args={"num_heads": 12}).taken["heads"].origin == "--model-arg"


def test_average_pooling_is_told_by_its_norm(tmp_path):
    net = timm.create_model(DEIT, global_pool="avg", num_classes=3)
    found = load_model(DEIT, ckpt=saved(tmp_path / "mae.pth", {"model": net.state_dict()}))
    assert (found.global_pool, found.taken["pooling"].origin) == ("avg", "shapes")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found(images), net.eval()(images))


def test_a_rectangle_that_the_file_states_is_its_size_though_a_square_has_as_many_patches(tmp_path):
    net = timm.create_model(DEIT, img_size=(64, 256), num_classes=2)
    options = {"model": DEIT, "img_size": [64, 256]}
    found = load_model(ckpt=saved(tmp_path / "wide.pth", {"model": net.state_dict(), "args": options}))
    assert tuple(found.patch_embed.img_size) == (64, 256)
    assert torch.equal(found.pos_embed, net.pos_embed)


def test_the_nearest_network_is_named_with_the_tensors_that_differ(tmp_path, state):
    broken = {name: tensor for name, tensor in state.items() if name != "norm.bias"}
    with pytest.raises(InputError, match=rf"no timm model has its shape .*nearest is {DEIT}.*without norm\.bias"):
        load_model(ckpt=saved(tmp_path / f"{DEIT}.pth", broken))
