"""timm's networks are known by fingerprints, which classes and input sizes do not change."""

import json

import pytest
import timm
import torch

from prune_realloc.checkpoints.index import INDEX_FILE, fingerprints, indexed, likeness, names_of


def state_of(name, **args):
    with torch.device("meta"):
        return timm.create_model(name, **args).state_dict()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("swin_tiny_patch4_window7_224", {"num_classes": 5}),
        ("levit_128s", {"num_classes": 0}),
        ("eva02_tiny_patch14_224", {"img_size": 112}),
        ("resnet18", {"num_classes": 2}),
    ],
)
def test_a_network_is_found_whatever_its_classes_and_size(name, args):
    same, kin = indexed(state_of(name, **args))
    assert name in same
    assert {*same} <= {*kin}


def test_another_width_is_kin_and_not_the_same():
    same, kin = indexed(state_of("swin_tiny_patch4_window7_224", embed_dim=48))
    assert same == []
    assert "swin_tiny_patch4_window7_224" in kin


def test_the_names_in_common_are_a_share_of_all_names():
    """Blocks have one name each, whatever their number; half of the names are a share of 1/2, others more are less."""
    state = state_of("swin_tiny_patch4_window7_224")
    alike = likeness(state)
    assert max(alike, key=lambda name: alike[name]).startswith("swin_")
    assert max(alike.values()) == 1.0
    kinds = {"".join("#" if letter.isdigit() else letter for letter in name): name for name in state}
    half = [*kinds.values()][::2]
    assert max(likeness(dict.fromkeys(half)).values()) == len(half) / len(kinds)
    strange = half + [f"other.{letter}" for letter in "abcdefgh"]
    assert max(likeness(dict.fromkeys(strange)).values()) == len(half) / (len(kinds) + 8)


def test_the_index_is_of_timms_networks_as_they_are():
    content = json.loads(INDEX_FILE.read_text())
    if content["timm"] != timm.__version__:
        pytest.skip(f"written with timm {content['timm']}; benchmarks/timm_index.py writes it again")
    for name in [*content["networks"]][::150]:
        assert content["networks"][name] == [*fingerprints(state_of(name))]
    for name in [*content["names"]][::15]:
        assert content["names"][name] == names_of(state_of(name))
    modules = {timm.models.model_entrypoint(name).__module__ for name in content["networks"]}
    assert {timm.models.model_entrypoint(name).__module__ for name in content["names"]} == modules
