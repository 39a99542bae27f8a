import json

import onnx
import pytest
import torch
from support.exporter import fake_exporter, fake_session

from prune_realloc.results.parity import Parity


def test_what_is_shipped_exports_at_a_fixed_batch(run_cli, tmp_path):
    code, out, err = run_cli("export", "--onnx", tmp_path / "m.onnx", "--batch", 4, "--json")
    assert code == 0, err
    (images,) = onnx.load(tmp_path / "m.onnx").graph.input
    said = json.loads(out)
    assert [said["metadata"][name] for name in ("mean", "std", "input_size")] == [[0.286], [0.353], [1, 28, 28]]
    assert said["input_shape"] == [d.dim_value for d in images.type.tensor_type.shape.dim] == [4, 1, 28, 28]


def test_what_the_network_wants_to_see_is_said_and_written(run_cli, tmp_path):
    code, out, err = run_cli("export", "--onnx", tmp_path / "m.onnx", "--with-preprocessing", "--mean", "0.25")
    assert code == 0, err
    rows = dict(line.strip().split("  ", 1) for line in out.splitlines()[1:])
    rows = {name: value.strip() for name, value in rows.items()}
    assert (rows["mean"], rows["std"], rows["input size"]) == ("0.25", "0.353", "1, 28, 28")
    assert rows["preprocessing"] == "inside: bicubic, crop_pct 1, crop_mode center"
    assert rows["classes"] == "10: t-shirt/top ... ankle boot"
    written = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert (written["mean"], written["class_names"][9]) == ([0.25], "ankle boot")


def test_what_is_said_to_be_taken_is_what_is_written(run_cli, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    monkeypatch.setattr("prune_realloc.results.export._checked", lambda *args: Parity(0.0))
    code, out, err = run_cli("export", "--onnx", tmp_path / "m.onnx", "--mean", "0.9", "--std", "0.1", "--json")
    assert code == 0, err
    said = json.loads(out)
    for name, field in (("mean", "mean"), ("std", "std"), ("interpolation", "interpolation"), ("crop", "crop_pct")):
        assert said["taken"][name]["value"] == said["metadata"][field]
    assert said["taken"]["mean"] == {"value": [0.9], "origin": "--mean", "guessed": False}


def test_a_failure_is_exit_code_1(run_cli, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda images: torch.zeros(len(images), 10))
    code, out, err = run_cli("export", "--onnx", tmp_path / "m.onnx")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "nothing was written" in err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("none.pth", "--onnx", "m.onnx"), "does not exist"),
        (("--onnx", "folder"), "is a folder"),
        (("--onnx", "file/m.onnx"), "a file is in the way"),
        (("--onnx", "m.onnx", "--batch", "0"), "batch must be at least 1"),
        (("--onnx", "m.onnx", "--batch", "many"), "neither 'dynamic' nor a number"),
        (("--onnx", "m.onnx", "--with-preprocessing", "--interpolation", "lanczos"), "cannot be done inside the file"),
        (("--onnx", "m.onnx", "--mean", "0.5,0.5,0.5"), "mean has 3 values"),
    ],
)
def test_bad_input_is_one_line(run_cli, tmp_path, monkeypatch, args, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    code, out, err = run_cli("export", *args)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, out, len(lines), "Traceback" in err) == (2, "", 1, False), err
    assert complaint in lines[0]
