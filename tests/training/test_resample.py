"""Crops of many images are Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import str_to_pil_interp

from prune_realloc.data.measures import CHOICES
from prune_realloc.training.draws import Draws, Rectangles, draw_crops
from prune_realloc.training.resample import crop_and_resize

COUNT = 100


def noise(height, channels, width):
    return np.random.default_rng(0).integers(0, 256, (COUNT, height, channels, width), dtype=np.uint8)


def by_pillow(pixels, boxes, size, interpolation):
    found = []
    for i, image in enumerate(pixels):
        left, top = int(boxes.left[i]), int(boxes.top[i])
        crop = Image.fromarray(image.transpose(0, 2, 1).squeeze()).crop(
            (left, top, left + int(boxes.width[i]), top + int(boxes.height[i]))
        )
        resized = np.array(crop.resize(size[::-1], str_to_pil_interp(interpolation)))
        found.append(resized.reshape(*size, -1).transpose(2, 0, 1))
    return torch.from_numpy(np.array(found)).float()


@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
@pytest.mark.parametrize(("old", "new"), [((32, 3, 32), (32, 32)), ((28, 1, 28), (32, 40)), ((20, 3, 24), (64, 64))])
def test_enlarged_crops_are_pillows_to_the_bit(old, new, interpolation):
    pixels = noise(*old)
    draws = Draws(0, 0, np.arange(COUNT), np.zeros(COUNT, np.int64))
    boxes = draw_crops(draws, np.full(COUNT, old[2]), np.full(COUNT, old[0]), 0.08)
    ours = crop_and_resize(torch.from_numpy(pixels), boxes, new, interpolation)
    assert torch.equal(ours, by_pillow(pixels, boxes, new, interpolation))


@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_square_crops_that_shrink_are_pillows_to_the_bit(interpolation):
    """Of others Pillow takes the columns first, from 13 on, which rounds otherwise."""
    pixels, sides = noise(64, 3, 64), np.arange(COUNT) % 31 + 33
    boxes = Rectangles(np.arange(COUNT) % 32 % (65 - sides), 64 - sides, sides, sides, np.ones(COUNT, bool))
    ours = crop_and_resize(torch.from_numpy(pixels), boxes, (32, 32), interpolation)
    assert torch.equal(ours, by_pillow(pixels, boxes, (32, 32), interpolation))
