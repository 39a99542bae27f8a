import multiprocessing

import numpy as np
import pytest
import torch
from support.data import COLOUR, GRAY, read_all, write_classes, write_fashion_mnist, write_idx, write_images

from prune_realloc.core.errors import InputError
from prune_realloc.data.images import open_images

KINDS = {
    "demo": lambda folder: open_images("demo"),
    "idx": lambda folder: open_images(str(write_idx(folder, "train", range(5)))),
    "flat": lambda folder: open_images(str(write_images(folder, 5))),
    "classes": lambda folder: open_images(str(write_classes(folder))),
    "torchvision": lambda folder: open_images("torch/fashion_mnist", data_dir=str(write_fashion_mnist(folder))),
}
"""Every way to open images from local files."""


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_workers_read_the_same_images_however_they_start(tmp_path, kind, start_method):
    source = KINDS[kind](tmp_path / "data")
    alone, helped = (read_all(source, COLOUR, samples=4, workers=workers) for workers in (0, 1))
    assert [b.checksums for b in alone] == [b.checksums for b in helped]
    assert torch.equal(alone[0].images, helped[0].images)


def test_same_seed_same_images_in_any_batch_split():
    source = open_images("demo")
    one, two = read_all(source, GRAY, samples=10, batch_size=10), read_all(source, GRAY, samples=10, batch_size=3)
    assert torch.equal(one[0].images, torch.cat([b.images for b in two]))
    assert one[0].checksums == sum((b.checksums for b in two), ())
    other = read_all(source, GRAY, samples=10, batch_size=10, seed=1)
    assert not torch.equal(one[0].images, other[0].images)
    with_workers = read_all(source, GRAY, samples=10, batch_size=10, workers=1)
    assert torch.equal(one[0].images, with_workers[0].images)


def test_pixels_reach_the_network_as_they_are():
    source = open_images("demo")
    batch = read_all(source, GRAY, samples=source.count, batch_size=64)[0]
    order = torch.randperm(source.count, generator=torch.Generator().manual_seed(0))
    pixels = np.asarray(source.load(int(order[0]))[0])
    np.testing.assert_allclose(batch.images[0, 0].numpy(), pixels / 255 * 2 - 1, atol=1e-6)


def test_gray_images_fit_a_colour_network_and_the_other_way(tmp_path):
    assert read_all(open_images("demo"), COLOUR, samples=4)[0].images.shape == (4, 3, 16, 16)
    colour = open_images(str(write_images(tmp_path / "flat", 2)))
    assert read_all(colour, GRAY)[0].images.shape == (2, 1, 28, 28)


def test_unreadable_images_are_left_out_counted_and_named(tmp_path):
    source = open_images(str(write_images(tmp_path / "flat", 40, broken=(7, 9))))
    names: list[str] = []
    batches = read_all(source, unreadable=names)
    assert sum(len(b.labels) for b in batches) == 38
    assert sorted(name.split(" ")[0] for name in names) == ["007.png", "009.png"]


@pytest.mark.parametrize(("count", "broken"), [(40, range(3)), (1, range(1)), (8, range(8))])
def test_too_many_unreadable_images_are_an_error(tmp_path, count, broken):
    source = open_images(str(write_images(tmp_path / "flat", count, broken=broken)))
    with pytest.raises(InputError, match=r"cannot be read|no readable image"):
        read_all(source)
