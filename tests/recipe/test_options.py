"""Options of functions: fields of Source and Data, checked once."""

from pathlib import Path

import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.document import Compensation, Data, Source
from prune_realloc.recipe.options import read_options, with_overrides
from prune_realloc.recipe.reader import parse_recipe


def test_fields_by_name_or_as_a_whole():
    options = {"ckpt": Path("a.pth"), "img_size": (32, 64), "samples": 8, "preprocess": {"mean": (0.5,)}}
    source, data = read_options("deit_tiny_patch16_224", "demo", options, {"split": "validation"})
    assert source == Source(model="deit_tiny_patch16_224", ckpt="a.pth", img_size=(32, 64))
    assert data == Data(name="demo", samples=8, preprocess={"mean": [0.5]}, split="validation")
    assert read_options(source, data, {}) == (source, data)


def test_none_is_not_given():
    source, data = read_options(None, None, {"ckpt": None, "model_args": None, "samples": None, "preprocess": None})
    assert (source, data) == (Source(), Data())
    assert data.model_fields_set == set()


@pytest.mark.parametrize(
    ("model", "data", "options", "complaint"),
    [
        (None, None, {"splt": "val"}, "unknown option 'splt'; did you mean 'split'"),
        (None, None, {"weights_sha256": "x"}, "unknown option 'weights_sha256'"),
        (None, None, {"samples": 0}, "samples must be at least 1, got 0"),
        (None, None, {"labels": "no"}, "labels must be true or false, got 'no'"),
        (None, None, {"img_size": (1, 2, 3)}, "img_size must be"),
        (None, None, {"model_args": {"norm_layer": len}}, "model_args must hold finite numbers"),
        (None, None, {"preprocess": {"men": 1}}, "preprocess: unknown key 'men'; did you mean 'mean'"),
        (Source(), None, {"ckpt": "a.pth"}, "ckpt: is given beside a Source; set it there"),
        (None, Data(), {"split": "val"}, "split: is given beside a Data; set it there"),
    ],
)
def test_what_is_wrong_is_one_line(model, data, options, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        read_options(model, data, options)
    assert "\n" not in str(caught.value)


def test_overrides_of_a_recipe():
    recipe = parse_recipe(
        "budget: {keep_macs: 0.5}\nsource: {ckpt: a.pth, ema: true, model: vit}\n"
        "data: {name: a, data_dir: b, labels: false, samples: 7}\n"
    )
    assert with_overrides(recipe, {}, {}) == recipe
    other = with_overrides(recipe, {"ckpt": "b.pth"}, {"name": "demo", "labels": True})
    assert other.source == Source(ckpt="b.pth", model="vit")
    assert other.data == Data(name="demo", samples=7)
    assert with_overrides(recipe, {}, {}, {"tune": 9}).compensate == Compensation(tune=9)
    with pytest.raises(InputError, match=r"data\.samples: must be at least 1"):
        with_overrides(recipe, {}, {"samples": 0})
