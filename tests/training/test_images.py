"""Which images are trained on and evaluated, in which order."""

from dataclasses import replace

import pytest
from support.data import write_idx
from support.networks import TINY, build
from support.right import pictures, write_pictures
from support.training import SMALL, Relabelled, folder_of_images, run_on

from prune_realloc import InputError
from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import WorkFailed
from prune_realloc.data.labels import Naming
from prune_realloc.results.evaluate import evaluate
from prune_realloc.training import images as training_images
from prune_realloc.training.config import train_config
from prune_realloc.training.images import TrainingImages, epoch_order
from prune_realloc.training.train import train


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    config = train_config(batch_size=8)
    first, second = (epoch_order(list(range(64)), config, epoch) for epoch in (0, 1))
    for epoch, batches in enumerate((first, second)):
        places = [place for batch in batches for place in batch]
        assert sorted(index for _, index, _ in places) == list(range(64))
        assert {place[0] for place in places} == {epoch}
    assert [p[1] for b in first for p in b] != [p[1] for b in second for p in b]
    assert epoch_order(list(range(64)), config, 0) == first


def test_no_image_is_both_trained_on_and_held_out():
    images = TrainingImages("demo", None, "train", "held-out", 3900)
    assert sorted(images.chosen + images.held_out) == list(range(4000))


def test_repeated_augmentation_keeps_the_length_and_repeats_in_a_batch():
    batches = epoch_order(list(range(60)), train_config(batch_size=12, repeated_aug=3), 0)
    assert sum(map(len, batches)) == 60
    for batch in batches:
        assert len({index for _, index, _ in batch}) == 4
        assert len(set(batch)) == 12


def test_folders_of_parts(variant, tmp_path):
    """A part that is missing is never made up from another."""
    both = folder_of_images(tmp_path / "both")
    assert run_on(both, variant, tmp_path / "a").data["validation_images"] == 40
    with pytest.raises(InputError, match=r"has no part 'test'; choose one of train, validation"):
        run_on(both, variant, tmp_path / "b", eval_split="test")
    with pytest.raises(InputError, match="eval_split 'train' is what is trained on"):
        run_on(both, variant, tmp_path / "c", eval_split="train")
    whole = folder_of_images(tmp_path / "whole", parts=("",))
    with pytest.raises(InputError, match=r"eval_split 'validation' is not there: .* has no parts; choose .* held-out"):
        run_on(whole, variant, tmp_path / "d")
    assert run_on(whole, variant, tmp_path / "e", eval_split="held-out", samples=24).data["validation_images"] == 16
    with pytest.raises(InputError, match="eval_split 'validation' is what is trained on"):  # the one other part of IDX
        run_on("demo", variant, tmp_path / "f", split="test")


def test_both_parts_have_the_same_classes(variant, tmp_path):
    data = folder_of_images(tmp_path / "data")
    (data / "validation" / "class9").rename(data / "validation" / "other")
    with pytest.raises(InputError, match="other has images in the part that is evaluated and none to train on"):
        run_on(data, variant, tmp_path / "run")


def test_labels_that_are_none_of_the_networks_classes_are_refused(variant, tmp_path, monkeypatch):
    """Of data that does not say beforehand how many classes it has."""
    opened = training_images.open_images

    def unknown(*args, **more):
        source = opened(*args, **more)
        shift = 0 if more["split"] == wrong else 1
        return replace(source, num_classes=None, load=Relabelled(source.load, shift - 1))

    monkeypatch.setattr(training_images, "open_images", unknown)
    for wrong in ("train", "test"):
        with pytest.raises(WorkFailed, match="has the label -1, the model 10 classes"):
            run_on("demo", variant, tmp_path / wrong, eval_split="test", samples=64, workers=1)


def test_labels_beyond_the_networks_classes_are_refused_before_the_work(tmp_path):
    write_idx(tmp_path, "train", [0, 1, 2])
    write_idx(tmp_path, "t10k", [0, 4])
    images = TrainingImages(str(tmp_path), None, "train", "test", None)
    assert images.fit(build(num_classes=5))
    with pytest.raises(InputError, match="has labels up to 4, the network 4 classes"):
        images.fit(build(num_classes=4))


def class_folders(tmp_path, names, each=4):
    pics = pictures(len(names), each=each)
    for part in ("train", "validation"):
        write_pictures(tmp_path / "data" / part, pics, names)
    return str(tmp_path / "data")


def test_a_new_network_learns_timms_order_and_keeps_the_names(tmp_path):
    names = ("10", "9", "Zebra", "ant")
    data = class_folders(tmp_path, names)
    args = {name: value for name, value in TINY.items() if name != "num_classes"}
    done = train(
        "vit_tiny_patch16_224",
        train_config(**SMALL | {"batch_size": 8}),
        data=data,
        out=tmp_path / "run",
        model_args=args,
    )
    assert done.data["validation_images"] == 16
    net = load_model(ckpt=tmp_path / "run" / "last")
    assert net.pretrained_cfg["label_names"] == ("9", "10", "ant", "Zebra")
    found = evaluate(net, data=data, device="cpu")
    assert found.top1 == done.top1
    again = train(
        tmp_path / "run" / "last", train_config(**SMALL | {"batch_size": 8}), data=data, out=tmp_path / "more"
    )
    assert load_model(ckpt=tmp_path / "more" / "last").pretrained_cfg["label_names"] == ("9", "10", "ant", "Zebra")
    assert again.data["images"] == 16


def test_a_trained_network_without_names_needs_its_order(tmp_path):
    names = ("10", "9", "Zebra", "ant")
    data = class_folders(tmp_path, names)
    naming = Naming(classes=4)
    with pytest.raises(InputError, match="give --class-order"):
        TrainingImages(data, None, "train", "validation", None, naming)
    for order, first in (("torchvision", "10"), ("timm", "9")):
        images = TrainingImages(data, None, "train", "validation", None, replace(naming, class_order=order))
        assert images.source.class_names[0] == images.validation.class_names[0] == first
        assert images.facts()["class_order"] == order


def test_names_of_a_trained_network_go_before_the_order_unless_it_learns_other_classes(tmp_path):
    data = class_folders(tmp_path, ("ant", "bee"))
    named = Naming(names=("bee", "cow", "ant"), classes=3)
    images = TrainingImages(data, None, "train", "validation", None, named)
    assert (images.source.num_classes, {images.source.load(i)[1] for i in range(8)}) == (3, {0, 2})
    images = TrainingImages(data, None, "train", "validation", None, replace(named, names=("bee", "cow", "elk")))
    assert (images.source.num_classes, images.source.class_names) == (2, ("ant", "bee"))
    with pytest.raises(InputError, match="ant is none of the 2 classes"):
        TrainingImages(data, None, "train", "validation", None, Naming(names=("bee", "cow"), classes=2))
