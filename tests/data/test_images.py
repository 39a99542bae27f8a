import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import iterate
from prune_realloc.data.idx import read_idx
from prune_realloc.data.images import DEMO, open_images
from prune_realloc.data.preprocessing import Preprocessing, preprocessing

GRAY = Preprocessing(input_size=(1, 28, 28), mean=(0.5,), std=(0.5,), crop_pct=1.0)
COLOUR = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def idx_bytes(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_images(folder, count, broken=()):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:03}.png"
        Image.fromarray(np.full((20, 24, 3), i, np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def read_all(source, prepare=COLOUR, **options):
    options = {"samples": 100, "batch_size": 4, "seed": 0} | options
    return list(iterate(source, prepare, **options))


@given(arrays(np.uint8, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)), st.booleans())
def test_idx_round_trip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.gz", gzip.compress(idx_bytes(np.zeros((2, 3), np.uint8)), mtime=0)[:-9], "not a whole gzip"),
        ("a.gz", b"plain text", "not a whole gzip"),
        ("a", b"plain text", "not an IDX file"),
        ("a", b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        ("a", idx_bytes(np.zeros((2, 3), np.uint8))[:-1], "its header says"),
        ("a", b"", "not an IDX file"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_idx(tmp_path / name)


def test_demo_images_are_real_balanced_and_small():
    for split, per_class in (("train", 400), ("validation", 500)):
        source = open_images("demo", split=split)
        labels = [source.load(i)[1] for i in range(source.count)]
        assert np.bincount(labels).tolist() == [per_class] * 10
    assert sum(p.stat().st_size for p in DEMO.iterdir()) < 5_000_000


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


def test_flat_folder_has_no_labels(tmp_path):
    source = open_images(str(write_images(tmp_path / "flat", 5)))
    assert (source.count, source.num_classes) == (5, 0)
    assert torch.cat([b.labels for b in read_all(source)]).tolist() == [-1] * 5


@pytest.mark.parametrize("below", ["", "train"])
def test_class_folders_give_labels(tmp_path, below):
    for name in ("cat", "dog", "owl"):
        write_images(tmp_path / below / name, 2)
    source = open_images(str(tmp_path))
    assert (source.count, source.num_classes) == (6, 3)
    assert sorted(torch.cat([b.labels for b in read_all(source)]).tolist()) == [0, 0, 1, 1, 2, 2]


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


def test_named_data_sets_from_local_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEMO.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    source = open_images("torch/fashion_mnist", split="train", data_dir=str(tmp_path))
    assert (source.count, source.num_classes) == (4000, 10)
    demo = open_images("demo")
    same = [read_all(s, GRAY, samples=6)[0].images for s in (source, demo)]
    assert torch.equal(*same)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("/nowhere", "does not exist"),
        ("torch/cifar10", "cannot be opened"),
        ("hfds/some/thing", "needs a package|cannot be opened"),
        (__file__, "is a file"),
    ],
)
def test_data_that_is_not_there(tmp_path, spec, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        open_images(spec, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_empty_folder_and_unknown_split(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        open_images(str(tmp_path))
    with pytest.raises(InputError, match="split 'night'"):
        open_images("demo", split="night")


def test_preprocessing_comes_from_the_model_and_can_be_overridden():
    model = build()
    own = preprocessing(model, (3, 32, 32), {})
    assert (own.mean, own.input_size) == ((0.5, 0.5, 0.5), (3, 32, 32))
    assert preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2, 0.3), "std": None}).mean == (0.1, 0.2, 0.3)
    assert preprocessing(model, (1, 32, 32), {}).mean == (0.5,)
    with pytest.raises(InputError, match="mean has 2 values"):
        preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2)})
    with pytest.raises(InputError, match="4 channels"):
        preprocessing(model, (4, 32, 32), {})
