"""Names without what wrappers put before them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_realloc.checkpoints.prefixes import unwrapped

NAMES = [
    "cls_token",
    "patch_embed.proj.weight",
    *(f"blocks.{i}.attn.qkv.weight" for i in range(8)),
    "norm.weight",
    "head.weight",
    "head.bias",
]
NET = {name: torch.full((1,), float(number)) for number, name in enumerate(NAMES)}


def is_network(state):
    return "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state


def under(prefix, state=NET):
    return {prefix + name: tensor for name, tensor in state.items()}


@given(
    st.lists(st.sampled_from(["module", "model", "_orig_mod", "net", "backbone", "my_vit", "encoder.0"]), max_size=4)
)
def test_whatever_all_names_begin_with_is_taken_off(parts):
    prefix = "".join(f"{part}." for part in parts)
    found = unwrapped(under(prefix), is_network)
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
    found = unwrapped(under("model.") | {other: torch.zeros(4)}, is_network)
    assert (found.state, found.left_out) == (NET, [other])


def test_a_backbone_with_a_bare_head():
    body = {name: tensor for name, tensor in NET.items() if not name.startswith("head")}
    head = {name: tensor for name, tensor in NET.items() if name.startswith("head")}
    found = unwrapped(under("backbone.", body) | head, is_network)
    assert (found.state, found.head) == (NET, "")
    renamed = {f"classifier.{name.split('.')[1]}": tensor for name, tensor in head.items()}
    found = unwrapped(under("model.", under("backbone.", body) | renamed), is_network)
    assert (found.state, found.head) == (NET, "model.classifier")


def test_a_head_that_projects_is_no_classifier():
    body = {name: tensor for name, tensor in NET.items() if not name.startswith("head")}
    projection = {"head.mlp.0.weight": torch.zeros(1), "head.last_layer.weight_g": torch.zeros(1)}
    found = unwrapped(under("backbone.", body) | projection, is_network)
    assert found.state == body
    assert found.left_out == [*projection]


def test_the_teacher_is_taken_of_two():
    found = unwrapped(under("teacher.") | under("student."), is_network)
    assert found.state == NET
    assert len(found.left_out) == len(NET)


def test_a_network_of_its_own_names_keeps_them_all():
    state = NET | {"decoder_pred.weight": torch.zeros(1), "something.else": torch.zeros(1)}
    assert unwrapped(state, is_network).state == state
