"""Archives: what the message says, followed to the letter, opens them."""

import io
import shlex
import tarfile

import numpy as np
import pytest
from PIL import Image

from prune_realloc.core.errors import InputError
from prune_realloc.data.images import open_images
from prune_realloc.data.labels import Naming


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder, stems):
    for n, stem in enumerate(stems):
        members = {}
        for k in range(3):
            members |= {f"{n}{k}.png": png(50 * k), f"{n}{k}.cls": str(k).encode()}
        write_tar(folder / f"{stem}.tar", members)
    return folder


def followed(spec, **options):
    """The source that the advice in the message leads to."""
    with pytest.raises(InputError) as error:
        open_images(str(spec))
    assert "\n" not in str(error.value)
    words = shlex.split(str(error.value).split("; give ")[1].split(" to read ")[0].split(" (pip ")[0])
    given = dict(zip(words[::2], words[1::2], strict=True))
    return open_images(
        given["--data"], split=given["--split"], data_dir=given.get("--data-dir"), samples=100, **options
    )


@pytest.mark.parametrize("stems", [["a"], ["train-000", "train-001"], ["one", "two"], ["x9", "x10"]])
def test_shards(tmp_path, stems):
    pytest.importorskip("webdataset")
    source = followed(write_shards(tmp_path / "my data", stems))
    assert [source.load(i)[1] for i in range(source.count)] == [0, 1, 2] * len(stems)
    assert followed(tmp_path / "my data" / f"{stems[0]}.tar").count == 3
    assert followed(tmp_path).count == 3 * len(stems)


@pytest.mark.parametrize("name", ["train-00000-of-00001", "test", "val_0", "pictures"])
def test_parquet(tmp_path, name, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    rows = {"image": [{"bytes": png(40 * k), "path": None} for k in range(4)], "label": [0, 1, 0, 1]}
    (tmp_path / "my data" / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "my data" / "data" / f"{name}.parquet")
    source = followed(tmp_path / "my data")
    assert (source.class_names, [source.load(i)[1] for i in range(4)]) == (("dog", "cat"), [0, 1, 0, 1])
    assert followed(tmp_path / "my data" / "data" / f"{name}.parquet").count == 4
    named = followed(tmp_path / "my data", naming=Naming(names=("cat", "dog"), classes=2))
    assert [named.load(i)[1] for i in range(4)] == [1, 0, 1, 0]
    with pytest.raises(InputError, match="dog is none of the 2 classes"):
        followed(tmp_path / "my data", naming=Naming(names=("cat", "cow"), classes=2))


def test_archives_of_other_kinds_are_to_be_unpacked(tmp_path):
    folders = write_tar(tmp_path / "a" / "classes.tar", {"cat/1.png": png(1), "dog/1.png": png(2)})
    (tmp_path / "b.zip").write_bytes(b"PK")
    (tmp_path / "c.tar").write_bytes(b"not a tar" * 100)
    for path, complaint in (
        (folders, "unpack it"),
        (tmp_path / "a", "unpack it"),
        (tmp_path / "b.zip", "unpack it"),
        (tmp_path / "c.tar", "fetch it again"),
    ):
        with pytest.raises(InputError, match=complaint):
            open_images(str(path))


def test_an_archive_beside_pictures_is_left_out(tmp_path):
    write_shards(tmp_path, ["backup"])
    (tmp_path / "1.png").write_bytes(png(1))
    assert open_images(str(tmp_path)).count == 1
