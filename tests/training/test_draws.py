"""Random numbers of images in batches: whose they are, and that their rectangles are timm's."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp, kstest
from timm.data.transforms import RandomResizedCropAndInterpolation

from prune_realloc.training.draws import Draws, draw_crops, draw_rectangles

NONE = np.zeros(1, np.int64)


def draws_of(images, seed=0, epoch=0, turn=0):
    return Draws(seed, epoch, np.asarray(images), np.full(len(images), turn))


def crops(count, width, height, least):
    return draw_crops(draws_of(range(count)), np.full(count, width), np.full(count, height), least)


def test_the_stream_is_that_of_splitmix64():
    """The first five of seed 1234567, as other libraries have them."""
    draws = draws_of([0])
    draws.keys = np.array([1234567], np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [draws.uniform()[0] for _ in expected] == [(bits >> 11) * 2.0**-53 for bits in expected]


def test_an_image_has_its_numbers_whatever_batch_it_is_in():
    together, alone = draws_of([5, 0, 7]), draws_of([7])
    assert [together.uniform()[2] for _ in range(3)] == [alone.uniform()[0] for _ in range(3)]


def test_seed_epoch_image_and_turn_each_give_others():
    first = {
        draws_of([i], seed, epoch, turn).uniform()[0]
        for i in (0, 1)
        for seed in (0, 1)
        for epoch in (0, 1)
        for turn in (0, 1)
    }
    assert len(first) == 16
    assert Draws(2**70, 3, NONE, NONE).uniform()[0] != Draws(2**70 + 1, 3, NONE, NONE).uniform()[0]


@pytest.mark.parametrize("drawn", [0, 1, 7])
def test_numbers_are_uniform(drawn):
    draws = draws_of(range(10_000))
    for _ in range(drawn):
        draws.uniform()
    assert kstest(draws.uniform(), "uniform").pvalue > 0.01
    assert np.bincount(draws.below(np.full(10_000, 4))).tolist() == pytest.approx([2500] * 4, rel=0.06)


@pytest.mark.parametrize(("least", "size"), [(0.08, (28, 28)), (0.7, (32, 32)), (0.5, (30, 20))])
def test_crops_are_drawn_as_timm_draws_them(least, size):
    ours = crops(4000, *size, least)
    image = Image.new("L", size)
    theirs = np.array(
        [RandomResizedCropAndInterpolation.get_params(image, (least, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    for mine, column in ((ours.top, 0), (ours.left, 1), (ours.height, 2), (ours.width, 3)):
        assert ks_2samp(mine, theirs[:, column]).pvalue > 0.001
    assert ((ours.left >= 0) & (ours.left + ours.width <= size[0])).all()
    assert ((ours.top >= 0) & (ours.top + ours.height <= size[1])).all()


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (40, 40), (33, 40)])
def test_where_no_crop_fits_it_is_timms_in_the_middle(size):
    """Nine tenths of so long an image are never of a shape that is allowed; of a square, all of it is one at most."""
    ours = crops(50, *size, 1.0)
    theirs = {
        RandomResizedCropAndInterpolation.get_params(Image.new("L", size), (1.0, 1.0), (3 / 4, 4 / 3))
        for _ in range(50)
    }
    assert {*zip(ours.top, ours.left, ours.height, ours.width, strict=True)} & theirs


def test_no_rectangle_is_empty():
    boxes = draw_rectangles(draws_of(range(500)), np.full(500, 8), np.full(500, 8), areas=(0, 0.01), aspects=(0.3, 3))
    assert boxes.width.min() == boxes.height.min() == 1
