"""What is done to training images, and those that cannot be read."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from support.data import COLOUR, GRAY
from support.training import folder_of_images, run, run_on
from torchvision.transforms import Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms.functional import hflip, resized_crop

from prune_realloc.core.errors import WorkFailed
from prune_realloc.training.augment import Augmented
from prune_realloc.training.config import train_config
from prune_realloc.training.draws import Draws, draw_crops
from prune_realloc.training.images import TrainingImages, epoch_order


def test_images_that_cannot_be_read_are_counted_or_refused(variant, tmp_path):
    data = folder_of_images(tmp_path / "data")
    broken = sorted((data / "train").rglob("*.png"))
    broken[0].write_bytes(b"no image")
    assert run_on(data, variant, tmp_path / "one").unreadable == 1
    for path in broken[:8]:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read"):
        run_on(data, variant, tmp_path / "many")
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read") as failure:
        run_on(data, variant, tmp_path / "all", workers=1)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5-inc1"])
def test_an_image_is_seen_as_it_is_whatever_batch_it_is_in(policy):
    """So several processes see what one sees, and a run that goes on sees what it would have seen."""
    images = TrainingImages("demo", None, "train", "held-out", 64)
    config = train_config(batch_size=32, auto_augment=policy, color_jitter=0.4, reprob=0.5, repeated_aug=3)
    dataset = Augmented(images, GRAY, config)
    batch = epoch_order(images.chosen, config, 2)[1]
    together, alone = dataset.__getitems__(batch)[0], [dataset.__getitems__([place])[0] for place in batch]
    assert torch.equal(together, torch.cat(alone))
    assert len({image.numpy().tobytes() for image in together}) == len(batch)


@pytest.mark.parametrize("prepare", [GRAY, COLOUR])
def test_without_policies_an_image_is_what_timm_makes_of_it(prepare, tmp_path):
    """Given the same crop, and mirrored or not."""
    folder_of_images(tmp_path)
    images = TrainingImages(str(tmp_path), None, "train", "validation", None)
    config = train_config(crop_scale=0.3)
    places = [(4, index, 0) for index in images.chosen]
    pixels = Augmented(images, prepare, config).__getitems__(places)[0]
    draws = Draws(config.seed, 4, np.array(images.chosen), np.zeros(40, np.int64))
    crops = draw_crops(draws, np.full(40, 28), np.full(40, 28), 0.3).sides
    mirrored = draws.uniform() < 0.5
    assert 0 < mirrored.sum() < 40
    finish = Compose([ToTensor(), Normalize(prepare.mean, prepare.std)])
    for i, (top, bottom, left, right) in enumerate(crops):
        image = images.source.load(images.chosen[i])[0].convert({1: "L", 3: "RGB"}[prepare.input_size[0]])
        size = prepare.input_size[1:]
        seen = resized_crop(image, top, left, bottom - top, right - left, size, InterpolationMode.BICUBIC)
        assert torch.equal(pixels[i], finish(hflip(seen) if mirrored[i] else seen))


@pytest.mark.parametrize("policy", ["v0", "original", "rand-m10-mstd0.5-inc1", "augmix-m5", "3a"])
def test_every_policy_of_timms_runs(policy):
    """Its strongest posterize keeps no bit, which is no image."""
    images, config = TrainingImages("demo", None, "train", "held-out", 320), train_config(auto_augment=policy)
    dataset = Augmented(images, GRAY, config)
    for batch in epoch_order(images.chosen, config, 0):
        assert dataset.__getitems__(batch)[0].shape == (128, 1, 28, 28)


@pytest.mark.parametrize("policy", [None, "v0", "original", "rand-m10-mstd0.5-inc1", "augmix-m5", "3a"])
def test_training_images_can_be_sent_to_another_process(policy):
    """As they are to workers that are not forked."""
    images = TrainingImages("demo", None, "train", "held-out", 64)
    config = train_config(auto_augment=policy, color_jitter=0.4, reprob=0.25)
    dataset = Augmented(images, GRAY, config)
    sent, validation = pickle.loads(pickle.dumps((dataset, images.validation)))
    for place in ((0, images.chosen[0], 0), (2, images.chosen[5], 1)):
        assert torch.equal(sent.__getitems__([place])[0], dataset.__getitems__([place])[0])
    assert validation.load(3)[1] == images.validation.load(3)[1]
    assert validation.describe(3) == images.validation.describe(3)


@pytest.fixture
def spawned_workers():
    """Processes are started as they are where forking is not the default: they import everything themselves."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
def test_workers_that_are_spawned_give_the_same_network(spawned_workers, variant, tmp_path):
    alone, workers = (run(variant, tmp_path / str(n), samples=64, epochs=1, workers=n) for n in (0, 1))
    assert workers.model == alone.model
    assert (workers.top1, workers.unreadable) == (alone.top1, 0)
