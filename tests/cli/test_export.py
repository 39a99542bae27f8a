import json

import onnx
import pytest
import torch
from support.exporter import fake_exporter, fake_session


def test_what_is_shipped_exports_at_a_fixed_batch(run_cli, tmp_path):
    code, out, err = run_cli("export", "--onnx", tmp_path / "m.onnx", "--batch", 4, "--json")
    assert code == 0, err
    (images,) = onnx.load(tmp_path / "m.onnx").graph.input
    assert json.loads(out)["input_shape"] == [d.dim_value for d in images.type.tensor_type.shape.dim] == [4, 1, 28, 28]


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
