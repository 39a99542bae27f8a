"""What training scripts note beside the weights."""

from argparse import Namespace

import numpy as np
import pytest

from prune_realloc.checkpoints.options import class_names, stated
from prune_realloc.core.errors import InputError

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
    assert found.preprocessing == {"mean": (0.1, 0.2, 0.3), "crop_pct": 1.0}
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


def test_numbers_that_are_missing_or_twice_are_refused():
    for broken in ({"ant": 0, "bee": 2}, {"ant": 1, "bee": 1}):
        with pytest.raises(InputError, match="not 0 to 1, each once"):
            class_names(broken)
