"""Pictures prepared inside a network are those that timm prepares, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import ImageSource, iterate
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.results.prepared import Prepared


def preparation(size, channels=3, **more):
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return Preprocessing(input_size=(channels, *size), mean=mean, std=std, **more)


def both(image, prepare):
    """The image as a network in PyTorch prepares it, and as the data sets of this package do."""
    pixels = np.array(image).reshape(1, image.height, image.width, -1)
    ours = Prepared(nn.Identity(), prepare)(torch.from_numpy(pixels))
    source = ImageSource("one", 1, lambda place: (image, -1), str, num_classes=0)
    (batch,) = iterate(source, prepare, samples=1, batch_size=1, seed=0)
    return ours, batch.images


def noise(height, width, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@settings(max_examples=150, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.sampled_from([(24, 24), (16, 40), (33, 20)]),
    crop_pct=st.sampled_from([0.875, 0.9, 0.95, 1.0]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    crop_mode=st.sampled_from(["center", "squash"]),
    channels=st.sampled_from([1, 3]),
)
def test_every_size_and_kind_gives_timms_pixels(sides, size, crop_pct, interpolation, crop_mode, channels):
    how = {"interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": crop_mode}
    ours, timms = both(noise(*sides, channels), preparation(size, channels, **how))
    assert torch.equal(ours, timms)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photograph(interpolation, crop_pct, mode):
    with get_sample_data("grace_hopper.jpg") as file:
        image = Image.open(file).convert(mode)
    channels = len(image.getbands())
    ours, timms = both(image, preparation((224, 224), channels, interpolation=interpolation, crop_pct=crop_pct))
    assert torch.equal(ours, timms)


def test_halves_are_rounded_as_pillow_rounds_them():
    image = Image.fromarray(np.array([[0, 1], [0, 1]], np.uint8).repeat(4, axis=1).repeat(4, axis=0))
    ours, timms = both(image.resize((8, 8)), preparation((4, 4), 1, interpolation="bilinear", crop_pct=1.0))
    assert torch.equal(ours, timms)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"interpolation": "lanczos"}, r"interpolation 'lanczos' .* give --interpolation bicubic or bilinear"),
        ({"crop_mode": "border"}, r"crop_mode 'border' .* only center and squash"),
        ({"crop_pct": 1.2}, r"crop_pct 1\.2 .* at most 1"),
        ({"crop_pct": 0.0}, r"crop_pct 0\.0 .* above 0"),
    ],
)
def test_what_cannot_be_done_is_refused(how, complaint):
    with pytest.raises(InputError, match=complaint):
        Prepared(nn.Identity(), preparation((8, 8), **how))
