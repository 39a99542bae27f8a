"""Training images that are held in memory, and those that are read each time."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.data import COLOUR, GRAY, write_classes
from support.training import folder_of_images

from prune_realloc.training import reading
from prune_realloc.training.augment import Augmented
from prune_realloc.training.config import train_config
from prune_realloc.training.images import TrainingImages, epoch_order
from prune_realloc.training.reading import Files, Held

EVERYTHING = {"color_jitter": 0.4, "reprob": 0.5, "repeated_aug": 2, "crop_scale": 0.3}


def images_of(folder, samples=None):
    return TrainingImages(str(folder), None, "train", "validation", samples)


@pytest.mark.parametrize("settings", [{}, EVERYTHING, EVERYTHING | {"auto_augment": "rand-m9-mstd0.5-inc1"}])
@pytest.mark.parametrize("prepare", [GRAY, COLOUR])
def test_images_that_are_held_are_those_of_the_files(settings, prepare, tmp_path, monkeypatch):
    folder_of_images(tmp_path)
    config = train_config(batch_size=16, **settings)
    held = Augmented(images_of(tmp_path), prepare, config)
    monkeypatch.setattr(reading, "_HELD", 0)
    read = Augmented(images_of(tmp_path), prepare, config)
    assert (type(held.images), type(read.images)) == (Held, Files)
    for batch in epoch_order(images_of(tmp_path).chosen, config, 1):
        for ours, theirs in zip(held.__getitems__(batch), read.__getitems__(batch), strict=True):
            assert torch.equal(ours, theirs)


def test_small_images_of_one_size_are_held_and_no_others(tmp_path):
    write_classes(tmp_path / "one" / "train", count=3)
    write_classes(tmp_path / "one" / "validation")
    assert isinstance(Augmented(images_of(tmp_path / "one"), COLOUR, train_config()).images, Held)
    other = next((tmp_path / "one" / "train").rglob("*.png"))
    Image.fromarray(np.zeros((20, 25, 3), np.uint8)).save(other)
    assert isinstance(Augmented(images_of(tmp_path / "one"), COLOUR, train_config()).images, Files)
    for path in (tmp_path / "one" / "train").rglob("*.png"):
        Image.fromarray(np.zeros((20, 65, 3), np.uint8)).save(path)
    assert isinstance(Augmented(images_of(tmp_path / "one"), COLOUR, train_config()).images, Files)


def test_only_images_that_are_trained_on_are_held():
    images = TrainingImages("demo", None, "train", "held-out", 64)
    dataset = Augmented(images, GRAY, train_config(crop_scale=1.0, hflip=0.0))
    assert dataset.images.pixels.shape == (64, 28, 28)
    pixels, labels, replaced = dataset.__getitems__([(0, index, 0) for index in images.chosen])
    for i, index in enumerate(images.chosen):
        image, label = images.source.load(index)
        assert torch.equal(pixels[i, 0], (torch.from_numpy(np.array(image)).float() / 255 - 0.5) / 0.5)
        assert labels[i] == label
    assert not replaced.any()


def test_a_broken_image_that_is_held_is_counted_and_another_stands_in(tmp_path):
    folder_of_images(tmp_path)
    broken = sorted((tmp_path / "train").rglob("*.png"))[7]
    broken.write_bytes(b"no image")
    images = images_of(tmp_path)
    dataset = Augmented(images, GRAY, train_config(crop_scale=1.0, hflip=0.0))
    assert isinstance(dataset.images, Held)
    pixels, labels, replaced = dataset.__getitems__([(0, index, 0) for index in images.chosen])
    place = replaced.nonzero().item()
    following = (place + 1) % len(images.chosen)
    assert images.source.describe(images.chosen[place]).endswith("class1/3.png")
    assert torch.equal(pixels[place], pixels[following])
    assert labels[place] == labels[following]


def test_images_of_which_too_many_are_broken_are_not_held(tmp_path):
    """They are refused when they are seen, as all are."""
    folder_of_images(tmp_path)
    for path in sorted((tmp_path / "train").rglob("*.png"))[:5]:
        path.write_bytes(b"no image")
    assert isinstance(Augmented(images_of(tmp_path), GRAY, train_config()).images, Files)
