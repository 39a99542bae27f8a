"""A name of timm's alone gives no weights: every verb that needs some says so, those that need none say that too."""

import pytest
from support.networks import TINY

NAME = "deit_tiny_patch16_224"
SMALL = [part for key, value in TINY.items() for part in ("--model-arg", f"{key}={value}")]


@pytest.mark.parametrize(
    "command",
    [
        ("analyze", "--model", NAME, "--scorer", "magnitude"),
        ("analyze", "--model", NAME, "--data", "demo"),
        ("apply", "recipe.yaml", "--model", NAME),
        ("apply", "sourced.yaml"),
        ("eval", "--model", NAME, "--data", "demo"),
        ("export", "--model", NAME, "--onnx", "model.onnx"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_random_weights_are_not_taken_for_a_network(run_cli, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("budget: {keep_macs: 0.5}\n")
    (tmp_path / "sourced.yaml").write_text(f"budget: {{keep_macs: 0.5}}\nsource: {{model: {NAME}}}\n")
    before = sorted(tmp_path.iterdir())
    code, out, err = run_cli(*command)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert f"model '{NAME}' comes without weights" in lines[0]
    assert "--ckpt" in lines[0]
    assert "--pretrained" in lines[0]
    assert sorted(tmp_path.iterdir()) == before


def test_bench_times_new_weights_and_says_so(run_cli):
    code, _, err = run_cli("bench", "--model", NAME, *SMALL, "--seconds", 0.05, "--batch-size", 1)
    assert code == 0, err
    assert f"note: {NAME} has new weights, times do not depend on them" in err


def test_train_starts_from_new_weights_and_says_so(run_cli, tmp_path):
    demo = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 7, "img_size": 28, "in_chans": 1}
    small = [part for key, value in demo.items() for part in ("--model-arg", f"{key}={value}")]
    short = ("--samples", 32, "--eval-split", "held-out", "--set", "epochs=1", "--set", "batch_size=32")
    code, _, err = run_cli("train", NAME, "--data", "demo", "-o", tmp_path, *short, *small, "--device", "cpu")
    assert code == 0, err
    assert f"note: {NAME} starts from new weights" in err
