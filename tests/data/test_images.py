import numpy as np
import pytest
import torch
from support.data import GRAY, read_all, write_classes, write_fashion_mnist, write_images

from prune_realloc.core.errors import InputError
from prune_realloc.data.images import DEMO, open_images


def test_demo_images_are_real_balanced_and_small():
    for split, per_class in (("train", 400), ("validation", 500)):
        source = open_images("demo", split=split)
        labels = [source.load(i)[1] for i in range(source.count)]
        assert np.bincount(labels).tolist() == [per_class] * 10
    assert sum(p.stat().st_size for p in DEMO.iterdir()) < 5_000_000


def test_flat_folder_has_no_labels(tmp_path):
    source = open_images(str(write_images(tmp_path / "flat", 5)))
    assert (source.count, source.num_classes) == (5, 0)
    assert torch.cat([b.labels for b in read_all(source)]).tolist() == [-1] * 5


@pytest.mark.parametrize("below", ["", "train"])
def test_class_folders_give_labels(tmp_path, below):
    write_classes(tmp_path / below)
    source = open_images(str(tmp_path))
    assert (source.count, source.num_classes) == (6, 3)
    assert sorted(torch.cat([b.labels for b in read_all(source)]).tolist()) == [0, 0, 1, 1, 2, 2]


def test_named_data_sets_from_local_files(tmp_path):
    source = open_images("torch/fashion_mnist", split="train", data_dir=str(write_fashion_mnist(tmp_path)))
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


@pytest.mark.parametrize("root", ["pipe:touch pwned #", "https://example.org/shards", "gs://bucket", "/nowhere"])
def test_a_data_set_lies_in_a_local_folder(root, tmp_path, monkeypatch):
    """webdataset runs what follows `pipe:` in a shell; timm must not be asked at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prune_realloc.data.named.create_dataset", lambda *args, **more: pytest.fail("was asked"))
    with pytest.raises(InputError, match="is no folder here"):
        open_images("wds/shards", split="train", data_dir=root)
    with pytest.raises(InputError, match="must be a name or a pattern"):
        open_images("wds/shards", split="pipe:touch pwned # .tar", data_dir=str(tmp_path))


def test_nothing_is_fetched(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("socket.create_connection", lambda *args, **more: pytest.fail("asked the network"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **more: pytest.fail("asked the network"))
    for spec in ("hfds/some/thing", "hfids/some/thing"):
        with pytest.raises(InputError, match="cannot be opened"):
            open_images(spec, data_dir=str(tmp_path))
