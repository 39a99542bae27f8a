"""A network that is right on every picture, through folders of every kind: top-1 of 100 %, or a refusal."""

import numpy as np
import pytest
from PIL import Image
from support.right import pictures, right_network, write_pictures

from prune_realloc.core.errors import InputError
from prune_realloc.results.evaluate import evaluate

ANIMALS = ("ant", "bee", "cat", "dog")


def top1(net, data, **options):
    found = evaluate(net, data=str(data), device="cpu", **options)
    return found.top1, found.samples


@pytest.fixture(scope="module")
def animals():
    pics = pictures(4)
    return pics, right_network(pics, 4)


CAPITALS = sorted(("Background", "apple", "banana", "cherry"))
NUMBERS = sorted(map(str, range(1, 12)))
MIXED = sorted(("img10", "img9", "Z", "a"))


@pytest.mark.parametrize("names", [CAPITALS, NUMBERS, MIXED], ids=["capital", "numbers", "both"])
def test_an_order_that_is_torchvisions_alone_is_asked_for(names, tmp_path):
    pics = pictures(len(names))
    net, data = right_network(pics, len(names)), write_pictures(tmp_path / "d", pics, names)
    with pytest.raises(InputError, match=r"order of the classes.* in torchvision, .* in timm; give --class-order"):
        evaluate(net, data=str(data))
    assert top1(net, data, class_order="torchvision")[0] == 1
    assert top1(net, data, class_order="timm")[0] < 1
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(names))
    assert top1(net, data, class_map=str(listed))[0] == 1
    named = right_network(pics, len(names), label_names=names)
    assert top1(named, data)[0] == 1


def test_names_in_the_checkpoint_align_labels(tmp_path):
    """In any order of the names, also for a part of the classes, also where they are written otherwise."""
    names = ("great dane", "Cat", "axolotl", "bee")
    pics = pictures(4)
    net = right_network(pics, 4, label_names=names)
    assert top1(net, write_pictures(tmp_path / "all", pics, names))[0] == 1
    assert top1(net, write_pictures(tmp_path / "two", pics[:4], names)) == (1, 4)
    assert top1(net, write_pictures(tmp_path / "spelt", pics, ("Great_Dane", "cat", "axolotl", "bee")))[0] == 1
    synonyms = right_network(pics, 4, label_names=("great dane", "cat, Felis catus", "axolotl, mud puppy", "bee, cat"))
    assert top1(synonyms, write_pictures(tmp_path / "one", pics[4:6], ("", "", "mud puppy"))) == (1, 2)
    with pytest.raises(InputError, match="cat is none of the 4 classes"):  # two have it among their names
        evaluate(synonyms, data=str(write_pictures(tmp_path / "one", pics[2:4], ("", "cat"))))
    (tmp_path / "all" / "bee").rename(tmp_path / "all" / "wasp")
    with pytest.raises(InputError, match="wasp is none of the 4 classes of names in the checkpoint"):
        evaluate(net, data=str(tmp_path / "all"))


def test_synset_folders_of_a_part_of_imagenet_have_its_labels(tmp_path):
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet-1k").label_names()
    chosen = (3, 999, 217, 4)
    pics = [(image, chosen[c]) for image, c in pictures(4)]
    net = right_network(pics, 1000)
    data = write_pictures(tmp_path / "some", pics, synsets)
    assert top1(net, data)[0] == 1
    (data / synsets[3]).rename(data / "n00000001")
    with pytest.raises(InputError, match="4 classes, the model 1000"):
        evaluate(net, data=str(data))


def test_a_class_without_images_stays_a_class(animals, tmp_path):
    """In a part of which others have images, in a part whose others lack the folder, and in data without parts."""
    pics, net = animals
    rest = [pair for pair in pics if pair[1] != 1]
    write_pictures(tmp_path / "parts" / "train", pics, ANIMALS)
    write_pictures(tmp_path / "parts" / "val", rest, ANIMALS)
    assert top1(net, tmp_path / "parts") == (1, 6)
    (tmp_path / "parts" / "val" / "bee").mkdir()
    assert top1(net, tmp_path / "parts") == (1, 6)
    write_pictures(tmp_path / "one", rest, ANIMALS)
    (tmp_path / "one" / "bee").mkdir()
    assert top1(net, tmp_path / "one") == (1, 6)
    (tmp_path / "one" / "yak").mkdir()
    with pytest.raises(InputError, match=r"5 classes \(bee, yak without images\), the model 4"):
        evaluate(net, data=str(tmp_path / "one"))


@pytest.mark.parametrize("nested", ["{name}/site{i}", "site{i}/{name}", "{name}/day{i}/camera"])
def test_nested_folders_are_refused_or_used_right(nested, tmp_path):
    names = ("healthy", "sick")
    pics = pictures(2, each=4)
    for i, (image, c) in enumerate(pics):
        place = tmp_path / "d" / nested.format(name=names[c], i=i % 2)
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i}.png")
    with pytest.raises(InputError, match=r"nested folders .*site0|nested folders .*day0"):
        evaluate(right_network(pics, 2), data=str(tmp_path / "d"))
    assert top1(right_network(pics, 2, label_names=names[::-1]), tmp_path / "d") == (0, 8)  # by name, not by place
    assert top1(right_network(pics, 2, label_names=names), tmp_path / "d") == (1, 8)


@pytest.mark.parametrize("nested", ["{name}/images", "data/{name}", "data/v2/{name}/raw"])
def test_folders_that_all_share_do_not_matter(nested, animals, tmp_path):
    pics, net = animals
    names = [nested.format(name=name) for name in ANIMALS]
    assert top1(net, write_pictures(tmp_path / "d", pics, names)) == (1, 8)


@pytest.mark.parametrize("beside", ["contact_sheet.png", "plot.bmp", ".hidden.png"])
def test_a_picture_beside_the_class_folders_is_left_out(beside, animals, tmp_path):
    pics, net = animals
    data = write_pictures(tmp_path / "d", pics, ANIMALS)
    pics[0][0].save(data / beside)
    assert top1(net, data) == (1, 8)


WIDE = {
    "16 bits": (lambda v: Image.fromarray(v.astype(np.uint16) * 257), "png"),
    "16 bits, big-endian": (lambda v: Image.frombytes("I;16B", v.T.shape, (v.astype(">u2") * 257).tobytes()), "tif"),
    "32-bit integers": (lambda v: Image.fromarray(v.astype(np.int32) * 257), "tif"),
    "small 32-bit integers": (lambda v: Image.fromarray(v.astype(np.int32)), "tif"),
    "float up to 1": (lambda v: Image.fromarray(v.astype(np.float32) / 255), "tif"),
    "float up to 255": (lambda v: Image.fromarray(v.astype(np.float32)), "tif"),
}


@pytest.mark.parametrize("kind", WIDE)
def test_wide_pixels_are_what_their_8_bits_are(kind, tmp_path):
    gray = [(image.convert("L"), c) for image, c in pictures(4)]
    net = right_network(gray, 4)
    write_pictures(tmp_path / "8", gray, ANIMALS)
    widen, suffix = WIDE[kind]
    write_pictures(tmp_path / "wide", [(widen(np.asarray(image)), c) for image, c in gray], ANIMALS, suffix)
    found = [evaluate(net, data=str(tmp_path / name), device="cpu") for name in ("8", "wide")]
    assert found[0].top1 == found[1].top1 == 1
    assert found[0].data["checksum"] == found[1].data["checksum"]
    assert any("8 of 8 images" in note and "scaled to 8 bits" in note for note in found[1].notes)


def test_folders_by_day_are_no_classes(tmp_path):
    days = ("2021-01-05", "2021-01-06")
    pics = pictures(2)
    net, data = right_network(pics, 2), write_pictures(tmp_path / "d", pics, days)
    with pytest.raises(InputError, match=r"named like dates \(2021-01-05, 2021-01-06\).* --no-labels"):
        evaluate(net, data=str(data))
    assert evaluate(net, data=str(data), labels=False, source=net, device="cpu").agreement == 1
