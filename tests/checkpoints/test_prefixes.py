"""Names without what wrappers put before them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_realloc.checkpoints.prefixes import unwrapped
from prune_realloc.core.errors import InputError

NAMES = [
    "cls_token",
    "patch_embed.proj.weight",
    *(f"blocks.{i}.attn.qkv.weight" for i in range(8)),
    "norm.weight",
    "head.weight",
    "head.bias",
]
NET = {name: torch.full((1, 1), float(number)) for number, name in enumerate(NAMES)}


def is_network(state):
    return "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state


def nothing(state):
    return False


def under(prefix, state=NET):
    return {prefix + name: tensor for name, tensor in state.items()}


@given(
    st.lists(st.sampled_from(["module", "model", "_orig_mod", "net", "backbone", "my_vit", "encoder.0"]), max_size=4)
)
def test_whatever_all_names_begin_with_is_taken_off(parts):
    prefix = "".join(f"{part}." for part in parts)
    found = unwrapped(under(prefix), is_network, nothing, is_network)
    assert (found.state, found.prefix, found.left_out) == (NET, prefix, [])


@pytest.mark.parametrize(
    "other",
    [
        "criterion.weight",
        "loss_fn.class_weights",
        "train_acc.correct",
        "val_metrics.confusion",
        "decoder_blocks.0.weight",
        "momentum_encoder.cls_token",
        "predictor.0.weight",
        "n_averaged",
    ],
)
def test_tensors_of_other_things_are_left_out_by_name(other):
    found = unwrapped(under("model.") | {other: torch.zeros(4)}, is_network, nothing, is_network)
    assert (found.state, found.left_out) == (NET, [other])


def test_a_backbone_with_a_bare_head():
    body = {name: tensor for name, tensor in NET.items() if not name.startswith("head")}
    head = {name: tensor for name, tensor in NET.items() if name.startswith("head")}
    found = unwrapped(under("backbone.", body) | head, is_network, nothing, is_network)
    assert (found.state, found.head) == (NET, "")
    renamed = {f"classifier.{name.split('.')[1]}": tensor for name, tensor in head.items()}
    found = unwrapped(under("model.", under("backbone.", body) | renamed), is_network, nothing, is_network)
    assert (found.state, found.head) == (NET, "model.classifier")


@pytest.mark.parametrize("own", ["mlp.0.weight", "last_layer2.weight_g"], ids=["DINO", "iBOT"])
def test_a_head_that_projects_is_no_classifier(own):
    body = {name: tensor for name, tensor in NET.items() if not name.startswith("head")}
    projection = {f"head.{own}": torch.zeros(1), "head.last_layer.weight_g": torch.zeros(1)}
    found = unwrapped(under("backbone.", body) | projection, is_network, nothing, is_network)
    assert found.state == body
    assert found.left_out == [*projection]


BODY = {name: tensor for name, tensor in NET.items() if not name.startswith("head")}


def test_of_self_supervised_training_the_teacher_is_taken():
    student = {name: tensor + 100 for name, tensor in BODY.items()}
    for state in (
        under("teacher.", BODY) | under("student.", student),
        under("student.", student) | under("teacher.", BODY),
    ):
        found = unwrapped(state, is_network, nothing, is_network)
        assert found.state == BODY
        assert found.left_out == [f"student.{name}" for name in BODY]


def test_of_two_with_a_classifier_none_is_taken():
    with pytest.raises(InputError, match="both may be meant"):
        unwrapped(under("teacher.") | under("student."), is_network, nothing, is_network)


def test_a_linear_layer_in_a_sequence_is_the_head_and_no_projection():
    head = {"head.1.weight": torch.ones(5, 8), "head.1.bias": torch.ones(5)}
    found = unwrapped(under("net.", BODY | head), nothing, nothing, nothing)
    assert (found.state["head.weight"].shape, found.head, found.left_out) == ((5, 8), "net.head.1", [])


def test_what_is_a_networks_own_is_not_taken_for_a_wrapper():
    state = {f"features.{i}.weight": torch.ones(1) for i in range(8)} | {"classifier.weight": torch.ones(5, 8)}
    assert unwrapped(state, lambda state: "features.0.weight" in state, nothing, nothing).state == state
    found = unwrapped(under("module.", state), lambda state: "features.0.weight" in state, nothing, nothing)
    assert found.state == state


def test_another_librarys_names_lose_a_common_prefix_and_what_is_of_training_only():
    def foreign(state):
        return any(name.endswith("embeddings.cls_token") for name in state)

    own = {"vit.embeddings.cls_token": torch.ones(1), "decoder.weight": torch.ones(1), "classifier.bias": torch.ones(2)}
    found = unwrapped(under("model.", own) | {"criterion.weight": torch.ones(1)}, nothing, foreign, nothing)
    assert (found.state, found.left_out) == (own, ["criterion.weight"])


def test_a_network_of_its_own_names_keeps_them_all():
    state = NET | {"decoder_pred.weight": torch.zeros(1), "something.else": torch.zeros(1)}
    assert unwrapped(state, is_network, nothing, is_network).state == state
