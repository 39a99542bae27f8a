"""Colours of many images are changed as Pillow changes those of one."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from prune_realloc.training.draws import Draws
from prune_realloc.training.jitter import jitter_

COUNT = 60
CHANGES = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def draws():
    return Draws(0, 0, np.arange(COUNT), np.zeros(COUNT, np.int64))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_each_image_is_changed_as_by_pillow(channels, strength):
    """Where a factor in single precision falls between two levels, the level beside is as right; changes pass it on."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 8, channels), dtype=np.uint8)
    ours = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous()
    jitter_(ours, draws(), strength)
    again = draws()
    factors = [again.uniform(max(0, 1 - strength), 1 + strength) for _ in CHANGES]
    order = np.argsort([again.uniform() for _ in CHANGES], axis=0)
    assert len({*map(tuple, order.T)}) == 6
    for i in range(COUNT):
        image = Image.fromarray(pixels[i].squeeze())
        for change in order[:, i]:
            image = CHANGES[change](image).enhance(factors[change][i])
        off = np.abs(ours[i].permute(1, 2, 0).numpy().squeeze() - np.array(image))
        assert off.max() <= 2
        assert (off > 0).mean() < 0.1


def test_no_change_leaves_the_images():
    images = torch.randint(0, 256, (COUNT, 3, 5, 5)).float()
    same = images.clone()
    jitter_(same, draws(), 0.0)
    assert torch.equal(same, images)
