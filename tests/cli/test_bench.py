import json

import pytest

from prune_realloc.core.typed import read_typed
from prune_realloc.results.bench import Bench


def test_beside_its_source(run_cli):
    args = ("bench", "--source", "demo", "--batch-size", 1, "--seconds", 0, "--threads", 1)
    code, out, err = run_cli(*args)
    assert code == 0, err
    assert "eager, batch 1: model is " in out
    assert "\ntook of the source: weights model.safetensors" in err
    code, out, err = run_cli(*args, "--json")
    numbers = json.loads(out)
    assert numbers["source_taken"]["weights"] == numbers["taken"]["weights"]
    assert [t["model"] for t in numbers["timings"]] == ["source", "model"]
    assert (numbers["threads"], numbers["input_shape"]) == (1, [1, 28, 28])


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("none.pth",), "does not exist"),
        (("--batch-size", 0), "batch_size must be at least 1"),
        (("--backend", "tensorrt"), "choose from eager, compiled, onnxruntime"),
        (("--threads", 0), "threads must be at least 1"),
        (("--seconds", -1), "seconds must be at least 0"),
        (("--device", "tpu"), "choose auto, cpu or cuda"),
        (("--model", "deit_tiny_patch16_224", "--source", "demo"), "source takes images of shape (1, 28, 28)"),
    ],
)
def test_bad_input_is_one_line(run_cli, args, complaint):
    code, out, err = run_cli("bench", *args)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, out, len(lines), "Traceback" in err) == (2, "", 1, False), err
    assert complaint in lines[0]


def test_what_it_found_is_kept(run_cli, tmp_path):
    code, _, err = run_cli("bench", "--seconds", 0, "--batch-size", 1, "--source", "demo", "-o", tmp_path)
    assert code == 0, err
    found = read_typed(Bench, tmp_path / "bench.json")
    assert found.named == {"source": "demo", "model": "demo"}
    assert [row[2] for row in found.rows()] == ["source", "model"]
