import pytest
from PIL import Image
from support.data import write_classes, write_idx
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import ImageSource
from prune_realloc.data.images import open_images
from prune_realloc.data.labels import Naming, naming_of
from prune_realloc.data.preprocessing import preprocessing, preprocessing_taken
from prune_realloc.data.stream import ImageStream, use_labels


def test_a_part_without_the_last_class_fits_the_network(tmp_path):
    source = open_images(str(write_idx(tmp_path, "train", [0, 1, 3])))
    assert use_labels(build(num_classes=5), source, True)
    assert use_labels(build(num_classes=4), source, True)
    with pytest.raises(InputError, match="has labels up to 3, the model 3 classes"):
        use_labels(build(num_classes=3), source, True)


def test_what_was_taken_of_the_images(tmp_path):
    data = write_classes(tmp_path / "d", names=("cat", "dog", "owl"), count=10)
    (data / "cat" / "notes.txt").write_text("x")
    (data / "dog" / "003.png").write_bytes(b"broken")
    net = build(num_classes=3)
    overrides = {"mean": [0.1, 0.2, 0.3]}
    prepare = preprocessing(net, (3, 32, 32), overrides)
    told = []
    stream = ImageStream(
        open_images(str(data), naming=naming_of(net, True)),
        prepare,
        classes=3,
        samples=None,
        batch_size=8,
        seed=0,
        progress=lambda done, total: told.append((done, total)),
        prepared=preprocessing_taken(net, prepare, overrides),
    )
    list(stream)
    assert told[-1] == (29, 29)
    said = {name: f"{fact.text()} ({fact.why()})" for name, fact in stream.taken().items()}
    assert said == {
        "layout": "class folders (the folders)",
        "classes": "3, cat .. owl (folder names, both orders agree)",
        "images": f"29 of 30 (--data {data})",
        "left out": "1 in no picture format (cat/notes.txt), 1 unreadable (dog/003.png) (the files)",
        "mean": "0.1/0.2/0.3 (--mean)",
        "std": "0.5/0.5/0.5 (the network's configuration)",
        "interpolation": "bicubic (the network's configuration)",
        "crop": "0.9 (the network's configuration)",
        "crop mode": "center (the network's configuration)",
    }


def test_a_refusal_for_other_classes_names_what_is_missing(tmp_path):
    data = write_classes(tmp_path / "d", names=("cat", "dog"))
    (data / "owl").mkdir()
    (data / "yak").mkdir()
    (data / "yak" / "1.heic").write_text("x")
    with pytest.raises(
        InputError, match=r"3 classes \(owl without images; left out: 1 in no picture format .yak/1.heic"
    ):
        use_labels(build(num_classes=4), open_images(str(data)), True)


def test_the_network_and_the_options_say_what_is_known_of_labels():
    net = build(num_classes=3)
    assert naming_of(net, True) == Naming(classes=3)
    net.pretrained_cfg = {"label_names": ["LABEL_0", "LABEL_1", "LABEL_2"]}
    assert naming_of(net, True).names == ()
    net.pretrained_cfg = {"label_names": ["a", "b"]}  # of another classifier
    assert naming_of(net, True).names == ()
    net.pretrained_cfg = {"label_names": ["a", "b", "c"]}
    assert naming_of(net, False, "map") == Naming(wanted=False, names=("a", "b", "c"), classes=3, class_map="map")
    assert not naming_of(build(num_classes=0), True).wanted


def numbered(samples, seed=0):
    """A stream over 12 images of one colour each."""
    source = ImageSource("numbers", 12, one_colour, str, num_classes=0)
    net = build(in_chans=1, img_size=28, patch_size=7)
    return ImageStream(
        source, preprocessing(net, (1, 28, 28), {}), classes=None, samples=samples, batch_size=2, seed=seed
    )


def one_colour(place):
    return Image.new("L", (28, 28), 10 * place), -1


@pytest.mark.parametrize(("samples", "others"), [(4, 4), (7, 5), (9, 3)])
def test_images_to_judge_by_are_none_that_were_fitted(samples, others):
    fitted = numbered(samples)
    held_back = fitted.held_back()
    list(fitted), list(held_back)
    assert len(held_back.checksums) == others
    assert not set(held_back.checksums) & set(fitted.checksums)


@pytest.mark.parametrize("samples", [10, 12, None])
def test_too_few_images_to_judge_by_are_none(samples):
    assert numbered(samples).held_back() is None
