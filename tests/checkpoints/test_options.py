"""What training scripts note beside the weights."""

from argparse import Namespace

import numpy as np
import pytest
from support.networks import build

from prune_realloc.checkpoints.options import class_names, stated
from prune_realloc.core.errors import InputError
from prune_realloc.data.preprocessing import preprocessing

DEIT = "deit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"arch": DEIT}, "arch"),
        ({"args": Namespace(model=f"timm/{DEIT}")}, "args.model"),
        ({"hyper_parameters": {"model_name": DEIT}}, "hyper_parameters.model_name"),
        ({"config": {"model": {"backbone": DEIT}}}, "config.model.backbone"),
        ({"args": Namespace(model="my_network", arch=DEIT)}, "args.arch"),
    ],
)
def test_the_architecture_where_it_is_timms(content, key):
    found = stated(content, "file")
    assert (found.name, found.origins["name"]) == (DEIT, key)
    assert stated({"arch": "my_network"}, "file").name is None


def test_heads_pooling_and_a_rectangle_are_hints_and_a_square_is_none():
    options = {"num_heads": 12, "global_pool": True, "img_size": [64, 128], "lr": 0.1, "heads": "many"}
    found = stated({"args": options}, "file")
    assert found.hints == {"num_heads": 12, "global_pool": "avg", "img_size": (64, 128)}
    assert found.origins["num_heads"] == "args.num_heads"
    assert stated({"args": {"input_size": 224, "image_size": (3, 96, 96), "num_heads": True}}, "file").hints == {}


def test_what_timm_notes_as_arguments_counts_as_such_and_is_checked():
    found = stated({"args": Namespace(model_kwargs={"num_heads": 6}, num_heads=12)}, "file")
    assert found.model_args == {"num_heads": 6}
    with pytest.raises(InputError, match=r"file: args\.model_kwargs\.checkpoint_path is refused"):
        stated({"args": {"model_kwargs": {"checkpoint_path": "x.pth"}}}, "file")


def test_preprocessing():
    found = stated({"args": Namespace(mean=(0.1, 0.2, 0.3), std=None, crop_pct=1.0)}, "file")
    assert found.preprocessing == {"mean": [0.1, 0.2, 0.3], "crop_pct": 1.0}
    assert stated({"config": {"std": np.array([0.5])}}, "file").preprocessing == {"std": [0.5]}


@pytest.mark.parametrize(
    "value",
    [
        ["ant", "bee"],
        ("ant", "bee"),
        {"bee": 1, "ant": 0},
        {0: "ant", 1: "bee"},
        {"1": "bee", "0": "ant"},
        np.array(["ant", "bee"]),
    ],
)
def test_class_names_in_the_order_of_the_labels(value):
    assert class_names(value) == ("ant", "bee")
    assert stated({"meta": {"CLASSES": value}}, "file").class_names == ("ant", "bee")
    assert stated({"class_to_idx": value}, "file").origins["class_names"] == "class_to_idx"


@pytest.mark.parametrize("value", [None, 1000, [], {}, [1, 2], "ant", {"a": [1]}, {0.5: "x"}])
def test_what_is_no_list_of_names_is_none(value):
    assert class_names(value) == ()


def test_numbers_that_are_missing_or_twice_name_no_classes():
    for broken in ({"ant": 0, "bee": 2}, {"ant": 1, "bee": 1}):
        assert class_names(broken) == ()


def test_what_is_said_of_other_networks_is_not_taken():
    options = {
        "model": DEIT,
        "decoder": {"num_heads": 6},
        "teacher": {"arch": "vit", "global_pool": "avg"},
        "tasks": {"heads": 4},
    }
    found = stated({"config": options}, "file")
    assert (found.name, found.hints) == (DEIT, {})
    assert stated({"config": {"backbone": {"num_heads": 6}}}, "file").hints == {"num_heads": 6}
    assert stated({"config": {"data": {"image_size": [32, 64], "mean": [0.5]}}}, "file").hints == {}


def test_what_is_stated_twice_and_otherwise_is_not_taken_and_said():
    found = stated({"args": {"num_heads": 6}, "config": {"model": {"heads": 3}}}, "file")
    assert found.hints == {}
    assert found.contradictions == ["num_heads is 6 (args.num_heads) and 3 (config.model.heads)"]


def test_preprocessing_of_pixels_to_255_is_scaled_and_said():
    found = stated(
        {"cfg": {"data_preprocessor": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}}}, "file"
    )
    assert found.preprocessing["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert found.preprocessing["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert found.origins["mean"] == "cfg.data_preprocessor.mean, divided by 255"


@pytest.mark.parametrize(
    "said",
    [
        {"mean": "imagenet"},
        {"mean": {"r": 1}},
        {"std": [0.0, 0.1, 0.1]},
        {"std": [-1.0]},
        {"mean": [float("nan")]},
        {"interpolation": ""},
        {"interpolation": 2},
        {"interpolation": ["x"]},
        {"crop_pct": 224},
        {"crop_pct": "big"},
        {"crop_pct": True},
        {"crop_mode": "some"},
    ],
)
def test_what_prepares_no_image_is_not_stated(said):
    """timm's own script writes an empty interpolation."""
    assert stated({"args": said}, "file").preprocessing == {}


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("mean", 0.0, True),
        ("mean", -0.001, False),
        ("mean", 256, False),
        ("mean", float("nan"), False),
        ("std", 1e-9, True),
        ("std", 0.0, False),
        ("std", 256.0, False),
        ("crop_pct", 0.01, True),
        ("crop_pct", 0.009, False),
        ("crop_pct", 10, True),
        ("crop_pct", 10.1, False),
        ("crop_pct", True, False),
        ("interpolation", "box", True),
        ("interpolation", "random", False),
        ("crop_mode", "border", True),
        ("crop_mode", None, False),
    ],
)
def test_what_a_file_may_state_is_what_can_be_used(key, value, good):
    """The bounds are in one place: who widens them for one of the two widens them for both."""
    assert (key in stated({"args": {key: value}}, "file").preprocessing) == good
    net = build()
    if good or value is None:  # an override that is None does not count
        preprocessing(net, (3, 32, 32), {key: value})
    else:
        with pytest.raises(InputError, match=rf"^{key} .*(from .* to .*; give|; choose one of)"):
            preprocessing(net, (3, 32, 32), {key: value})
