"""Which of a file's dictionaries of tensors are the weights."""

from pathlib import Path

import pytest
import torch

from prune_realloc.checkpoints.containers import select_weights
from prune_realloc.core.errors import InputError

PATH = Path("net.pth")
NET = {f"blocks.{i}.weight": torch.full((1,), float(i)) for i in range(12)}
OTHER = {name: tensor + 100 for name, tensor in NET.items()}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (NET, ""),
        ({"state_dict": NET, "optimizer": {"state": {0: OTHER}}, "epoch": 3}, "state_dict"),
        ({"model": NET, "lr_scheduler": OTHER}, "model"),
        ({"module": NET}, "module"),
        ({"net": NET, "acc": 0.9}, "net"),
        ({"model": {"state_dict": NET}}, "model.state_dict"),
        ({"weights": NET}, "weights"),
        ({"teacher": NET, "student": OTHER, "dino_loss": {"center": torch.zeros(1)}}, "teacher"),
        ({"what_i_called_it": {"inner": NET}}, "what_i_called_it.inner"),
        ({"model": NET, "scaler": {"scale": torch.ones(1)}, "callbacks": {"ema": OTHER}}, "model"),
        ({"model": NET, "extra": {"temperature": torch.ones(1)}}, "model"),
        ({"state_dict": NET, "hyper_parameters": {"table": OTHER}}, "state_dict"),
        ({"base_encoder": NET, "momentum_encoder": OTHER}, "base_encoder"),
    ],
)
def test_the_network_is_found_and_nothing_else(content, place):
    found = select_weights(content, PATH, None)
    assert (found.state, found.place, found.averaged) == (NET, place, False)


@pytest.mark.parametrize(
    "key", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "averaged_model", "swa_model", "EMA", "avg_model"]
)
def test_averaged_weights_are_told_from_the_others(key):
    content = {"model": NET, key: OTHER}
    assert select_weights(content, PATH, True).state == OTHER
    assert select_weights(content, PATH, False).state == NET
    found = select_weights(content, PATH, None)
    assert found.averaged == (key == "state_dict_ema")
    assert found.others == (("model",) if found.averaged else (key,))


def test_averaged_weights_alone_are_taken_and_not_without_being_wanted():
    assert select_weights({"model_ema": NET}, PATH, None).averaged
    with pytest.raises(InputError, match="averaged weights only; its keys are 'model_ema'"):
        select_weights({"model_ema": NET}, PATH, False)
    with pytest.raises(InputError, match="no averaged weights; its keys are 'model', 'lr'"):
        select_weights({"model": NET, "lr": 0.1}, PATH, True)


def test_a_body_and_the_head_beside_it_are_one_network():
    head = {"weight": torch.ones(5, 8), "bias": torch.ones(5)}
    found = select_weights({"model": {"backbone": NET, "head": head}, "optimizer": {"state": {0: NET}}}, PATH, None)
    assert found.place == "model"
    assert found.state == {f"backbone.{name}": tensor for name, tensor in NET.items()} | {
        f"head.{name}": tensor for name, tensor in head.items()
    }


def test_the_order_holds_at_every_level_and_the_rest_is_named():
    found = select_weights(
        {"state_dict": {"student": OTHER, "teacher": NET}, "extra": {"t": torch.ones(1)}}, PATH, None
    )
    assert (found.place, found.state) == ("state_dict.teacher", NET)
    assert found.others == ("state_dict.student", "extra")
    with pytest.raises(InputError, match=r"'model\.a' .*'model\.b'"):
        select_weights({"model": {"a": NET, "b": OTHER}}, PATH, None)


def test_of_a_teacher_and_a_student_with_classifiers_none_is_taken():
    both = {"teacher": NET | {"head.weight": torch.ones(2, 2)}, "student": OTHER}
    with pytest.raises(InputError, match="both may be meant"):
        select_weights(both, PATH, None)


def test_averages_of_torch_are_averages():
    assert select_weights(
        {f"module.{name}": t for name, t in NET.items()} | {"n_averaged": torch.ones(1)}, PATH, None
    ).averaged


def test_several_networks_are_named_and_none_is_chosen():
    with pytest.raises(InputError, match=r"several networks: 'left' \(12 tensors\), 'right' \(12 tensors\)"):
        select_weights({"left": NET, "right": OTHER}, PATH, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3, "best": "x"}, "holds no tensors; its keys are 'epoch', 'best'"),
        ({}, "it is an empty dictionary"),
        ({str(i): i for i in range(20)}, r"its keys are '0', .*'7', \.\.\. \(20 in all\)"),
        ({"optimizer": NET}, "holds no tensors; its keys are 'optimizer'"),
    ],
)
def test_what_holds_none_says_what_it_holds(content, reason):
    with pytest.raises(InputError, match=reason):
        select_weights(content, PATH, None)
