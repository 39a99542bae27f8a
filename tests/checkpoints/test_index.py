"""timm's networks are known by fingerprints, which classes and input sizes do not change."""

import json

import pytest
import timm
import torch

from prune_realloc.checkpoints.index import INDEX_FILE, fingerprints, indexed


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


def test_the_index_is_of_timms_networks_as_they_are():
    content = json.loads(INDEX_FILE.read_text())
    if content["timm"] != timm.__version__:
        pytest.skip(f"written with timm {content['timm']}; benchmarks/timm_index.py writes it again")
    for name in [*content["networks"]][::150]:
        assert content["networks"][name] == [*fingerprints(state_of(name))]
