"""Rectangles of noise in images."""

import numpy as np
import pytest
import torch

from prune_realloc.training.draws import Draws
from prune_realloc.training.erase import erase_


def erased(count, probability, size=(3, 20, 24)):
    images = torch.zeros(count, *size)
    erase_(images, Draws(0, 0, np.arange(count), np.zeros(count, np.int64)), probability)
    return images


def test_so_many_images_have_one_rectangle_of_normal_noise_within_timms_bounds():
    images = erased(1000, 0.25)
    hit = images.abs().sum(dim=(1, 2, 3)) > 0
    assert hit.float().mean() == pytest.approx(0.25, abs=0.05)
    noise = images[images != 0]
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.02)
    for image in images[hit]:
        inside = (image != 0).all(dim=0)
        rows, columns = inside.any(dim=1).sum().item(), inside.any(dim=0).sum().item()
        assert inside.sum() == rows * columns
        assert 0.01 < rows * columns / (20 * 24) < 0.36
        assert rows < 20
        assert columns < 24


def test_an_image_gets_the_same_noise_in_any_batch():
    assert torch.equal(erased(8, 1.0), erased(20, 1.0)[:8])


def test_no_probability_erases_nothing():
    assert not erased(50, 0.0).any()
