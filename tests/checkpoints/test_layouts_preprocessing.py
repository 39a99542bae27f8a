"""Hugging Face's preprocessing in timm's words: the same picture comes out."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from prune_realloc.checkpoints.layouts.preprocessing import prepared
from prune_realloc.core.errors import InputError

CLIP: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
VIT: dict[str, Any] = {
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def picture() -> Image.Image:
    """Smooth, so that rounding in the middle of two libraries is not what is measured."""
    x, y = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 64))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("change", [{}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"do_normalize": False}])
@pytest.mark.parametrize(("kind", "config"), [("CLIPImageProcessor", CLIP), ("ViTImageProcessor", VIT)])
def test_pictures_are_equal(kind, config, change):
    hf = pytest.importorskip("transformers")
    theirs = getattr(hf, kind)(**config | change)(picture(), return_tensors="pt")["pixel_values"][0].double()
    ours = create_transform((3, 32, 32), **prepared(config | change))(picture()).double()
    scale = theirs.abs().max()  # of 255 where nothing is rescaled
    assert torch.allclose(ours, theirs, rtol=0, atol=0.02 * float(scale))


def test_fields_in_timms_words():
    found = prepared(CLIP)
    assert found["crop_pct"] == pytest.approx(32 / 40)
    assert (found["crop_mode"], found["interpolation"]) == ("center", "bicubic")
    assert prepared(VIT)["crop_mode"] == "squash"
    assert prepared(VIT | {"size": 32})["crop_mode"] == "squash"  # as older files write it
    assert prepared({"image_processor": CLIP, "tokenizer": {}}) == found
    assert prepared(None) == {} == prepared({"feature_extractor_type": "ViTFeatureExtractor"})
    assert prepared({"image_mean": 0.5, "image_std": 0.5}) == {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": "half"}, "image_mean 'half' is not a list of three numbers"),
        ({"image_std": [0.5, 0.5, 0.0]}, "three positive numbers"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "three numbers"),
        ({"size": {"shortest_edge": -3}}, "a size in pixels"),
        ({"rescale_factor": 0}, "a factor other than 0"),
        ({"rescale_factor": "255"}, "a number"),
    ],
)
def test_damaged_fields_are_refused(change, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        prepared(CLIP | change)
    assert str(caught.value).startswith("preprocessor_config.json: ")
