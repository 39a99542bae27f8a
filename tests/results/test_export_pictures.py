"""ONNX files that say what they want to see, or take pictures as they were read."""

import json

import numpy as np
import onnx
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from support.exporter import fake_exporter, fake_session
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import iterate
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing
from prune_realloc.results import parity
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import ExportError, onnx_session

SIZES = [(32, 48), (60, 41), (41, 160), (20, 17), (500, 333), (170, 40)]
KINDS = {
    "rectangle": ((3, 32, 48), "bicubic", 0.875, "center"),
    "square": ((3, 32, 32), "bilinear", 1.0, "center"),
    "gray": ((1, 32, 32), "bicubic", 0.95, "center"),
    "squash": ((3, 48, 32), "bilinear", 0.9, "squash"),
}


def written_metadata(path):
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def write_pictures(folder):
    """PNG files of several sizes: waves with noise, and a photograph."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[0:height, 0:width]
        wave = 127 + 100 * np.sin(x / (3 + number) + y / 9)[..., None] * np.array([1, 0.5, -0.7])
        pixels = (wave + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    with get_sample_data("grace_hopper.jpg") as file:
        Image.open(file).save(folder / "photograph.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_files_get_the_same_class_as_from_the_eager_network(kind, tmp_path):
    shape, interpolation, crop_pct, crop_mode = KINDS[kind]
    net = build(img_size=shape[1:], in_chans=shape[0])
    mean, std = (0.3, 0.5, 0.6)[: shape[0]], (0.2, 0.3, 0.25)[: shape[0]]
    prepare = Preprocessing(shape, mean, std, interpolation, crop_pct, crop_mode)
    found = export_onnx(net, tmp_path / "m.onnx", input_shape=shape, prepare=prepare, with_preprocessing=True)
    assert (found.input_shape, found.pixel_difference) == (("batch", "height", "width", shape[0]), 0)
    assert b"prune_realloc/" not in (tmp_path / "m.onnx").read_bytes()  # no stack traces, in branches neither
    session, folder = onnx_session(tmp_path / "m.onnx"), write_pictures(tmp_path / "pictures")
    source = open_images(str(folder))
    for batch in iterate(source, prepare, samples=100, batch_size=1, seed=0):
        place = torch.randperm(source.count, generator=torch.Generator().manual_seed(0))[int(batch.positions)]
        image = Image.open(folder / source.describe(int(place))).convert(CHANNEL_MODE[shape[0]])
        pixels = np.asarray(image).reshape(1, image.height, image.width, shape[0])
        (logits,) = session.run(["logits"], {"images": pixels.repeat(2, axis=0)})
        expected = net(batch.images).detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected.expand(2, -1), rtol=1e-4, atol=1e-4)
        assert (logits.argmax(1) == int(expected.argmax())).all()


def test_what_a_file_says_of_itself(tiny_vit, tmp_path):
    tiny_vit.pretrained_cfg = tiny_vit.pretrained_cfg | {"label_names": ["ä", "b c", "d", "e", 'f"']}
    found = export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=(3, 32, 32))
    said = written_metadata(tmp_path / "m.onnx")
    config = tiny_vit.pretrained_cfg
    assert said == json.loads(json.dumps(found.metadata))
    assert [said["mean"], said["std"], said["input_size"]] == [[0.5] * 3, [0.5] * 3, [3, 32, 32]]
    assert [said[name] for name in ("interpolation", "crop_pct", "crop_mode")] == ["bicubic", 0.9, "center"]
    assert (said["class_names"], said["architecture"]) == (config["label_names"], "vit_tiny_patch16_224")
    assert (said["producer"], said["preprocessing_inside"]) == ("prune-realloc", False)


def test_nothing_is_said_that_nothing_tells(tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    found = export_onnx(net, tmp_path / "m.onnx", input_shape=(3, 4, 4), check=False)
    assert sorted(found.metadata) == ["input_size", "producer", "version"]
    with pytest.raises(InputError, match="Sequential tells no mean and std"):
        export_onnx(net, tmp_path / "m.onnx", input_shape=(3, 4, 4), with_preprocessing=True)


@pytest.mark.parametrize("names", [["a", "b"], None])
def test_names_of_other_classes_are_left_out(tiny_vit, tmp_path, monkeypatch, names):
    fake_exporter(monkeypatch)
    tiny_vit.pretrained_cfg = tiny_vit.pretrained_cfg | {"label_names": names}
    found = export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=(3, 32, 32), check=False)
    assert "class_names" not in found.metadata


def test_one_logit_says_how_it_is_read(tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    net = build(num_classes=1)
    for names, second in ((None, "the second class"), (["no", "yes"], "class_names[1]")):
        net.pretrained_cfg = net.pretrained_cfg | {"label_names": names}
        said = export_onnx(net, tmp_path / "m.onnx", input_shape=(3, 32, 32), check=False).metadata
        assert said["logits"] == f"one: sigmoid is the probability of {second}"
    said = export_onnx(build(num_classes=2), tmp_path / "m.onnx", input_shape=(3, 32, 32), check=False).metadata
    assert "logits" not in said


def test_one_logit_of_another_sign_is_another_class():
    one, other = torch.tensor([[1.0], [-2.0]]), torch.tensor([[1.0], [0.5]])
    parity._require_same_class(one, one, (2, 8, 8, 3))
    with pytest.raises(ExportError, match="name different classes"):
        parity._require_same_class(other, one, (2, 8, 8, 3))


def test_other_pixels_leave_no_file(tiny_vit, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda pictures: tiny_vit(torch.zeros(len(pictures), 3, 32, 32)))
    with pytest.raises(ExportError, match="nothing was written"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=(3, 32, 32), with_preprocessing=True)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_prepares_otherwise_than_the_data_leaves_no_file(tiny_vit, tmp_path, monkeypatch):
    from prune_realloc.results.prepared import Prepared

    wrong = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear")
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda pictures: Prepared(tiny_vit, wrong)(pictures))
    monkeypatch.setattr(parity, "_require_same_class", lambda *args: None)
    monkeypatch.setattr(parity, "_as_elsewhere", lambda pictures, prepare: torch.zeros(len(pictures), 3, 32, 32))
    with pytest.raises(ExportError, match=r"differ from timm's by \d+\.\d of 255; nothing was written"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=(3, 32, 32), prepare=wrong, with_preprocessing=True)
    assert list(tmp_path.iterdir()) == []
