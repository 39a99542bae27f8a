"""The verb `analyze`."""

import json
import stat

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support.networks import build

from prune_realloc import Analysis, analyze, load_pruned
from prune_realloc.checkpoints.load import DEMO

FAST = ("--samples", 16, "--batch-size", 8)


def test_analyze_without_arguments_uses_what_is_shipped(run_cli, tmp_path):
    code, out, err = run_cli("analyze", *FAST, "-o", tmp_path / "run")
    assert code == 0, err
    assert "FFN" in out
    assert "total" in out
    assert "note" in err or "wrote" in err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "analysis.json",
        "analysis.safetensors",
        "report.html",
        "retention.png",
    ]
    # the command line and the function are the same thing
    assert Analysis.load(tmp_path / "run") == analyze(samples=16, batch_size=8)


def test_json_is_one_object_on_stdout(run_cli):
    code, out, _ = run_cli("analyze", "--json", *FAST, "--scorer", "loss")
    assert code == 0
    numbers = json.loads(out)
    assert numbers["scorer"] == "loss"
    assert numbers["params"] == sum(c["params"] for c in numbers["components"].values())
    assert len(numbers["sites"]) == 1 + 12 * 5


def test_checkpoint_and_folder_of_images(run_cli, tmp_path):
    torch.save({"model": build(in_chans=1).state_dict()}, tmp_path / "tiny.pth")
    for name in "abcde":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40), np.uint8)).save(
                tmp_path / "data" / name / f"{i}.jpg"
            )
    args = (
        "analyze",
        "--ckpt",
        tmp_path / "tiny.pth",
        "--model",
        "vit_tiny_patch16_224",
        "--model-arg",
        "depth=2",
        "--model-arg",
        "embed_dim=48",
        "--data",
        tmp_path / "data",
        "--mean",
        "0.4",
        "--json",
    )
    code, out, err = run_cli(*args)
    assert code == 0, err
    numbers = json.loads(out)
    assert (numbers["samples"], numbers["data"]["mean"]) == (15, [0.4])
    code, _, err = run_cli(*args, "--mean", "0.4,x")
    assert (code, "mean '0.4,x'" in err) == (2, True)


def shipped_state():
    return safetensors.torch.load_file(DEMO / "model.safetensors")


@pytest.fixture
def bad_inputs(tmp_path):
    """Name -> (arguments, what the one line must say)."""
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").touch()
    wrong = tmp_path / "wrong"
    for name in ("a", "b"):
        (wrong / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(wrong / name / "0.png")
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(3):
        (flat / f"{i}.png").write_bytes(b"broken")
    broken = shipped_state()
    broken["norm.weight"][0] = float("nan")
    safetensors.torch.save_file(broken, tmp_path / "nan.safetensors")
    shape = ("--model-arg", "embed_dim=64", "--model-arg", "num_heads=4")
    return {
        "missing": (("--ckpt", tmp_path / "none.pth"), "does not exist"),
        "empty": (("--ckpt", tmp_path / "empty.pth"), "is empty"),
        "text": (("--ckpt", tmp_path / "text.pth"), "text.pth"),
        "unknown model": (("--model", "no_such_vit"), "no_such_vit"),
        "nan": (("--ckpt", tmp_path / "nan.safetensors", "--model", "deit_tiny_patch16_224", *shape), "weight has NaN"),
        "class count": (("--data", wrong, "--class-order", "timm"), "2 classes, the model 10"),
        "empty folder": (("--data", tmp_path / "nothing"), "cannot be opened"),
        "no data": (("--data", tmp_path / "gone"), "does not exist"),
        "broken images": (("--data", flat), "cannot be read"),
        "scorer": (("--scorer", "gut"), "choose one of"),
        "samples": (("--samples", 0), "samples must be at least 1"),
        "batch size": (("--batch-size", 0), "batch_size must be at least 1"),
        "device": (("--device", "tpu"), "choose auto, cpu or cuda"),
        "model arg": (("--model-arg", "depth"), "KEY=VALUE"),
        "output": (("-o", tmp_path / "file"), "a file is in the way"),
        "no data given": (("--ckpt", DEMO), "--data"),
    }


def test_bad_input_is_one_line_and_exit_code_2(run_cli, bad_inputs, tmp_path):
    for name, (args, complaint) in bad_inputs.items():
        target = ("-o", tmp_path / "out") if "-o" not in args else ()
        code, out, err = run_cli("analyze", *args, *target)
        lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
        assert code == 2, (name, err)
        assert len(lines) == 1, (name, err)
        assert complaint in lines[0], (name, lines)
        assert "Traceback" not in err, name
        assert out == "", name
        assert not list((tmp_path / "out").glob("*")), name


def test_read_only_output_is_refused_before_the_work(run_cli, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    code, _, err = run_cli("analyze", *FAST, "-o", tmp_path / "run")
    assert code == 2
    assert "No space left on device" in err
    assert "scoring" not in err


def test_out_of_memory_names_the_flag(run_cli, monkeypatch):
    def exhausted(*args, **kwargs):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("prune_realloc.pruning.examine.gate_moments", exhausted)
    code, _, err = run_cli("analyze", *FAST)
    assert code == 2
    assert "lower --batch-size" in err


def test_interrupt_leaves_nothing_half_written(run_cli, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("prune_realloc.pruning.examine.gate_moments", interrupted)
    code, _, err = run_cli("analyze", *FAST, "-o", tmp_path / "run")
    assert code == 130
    assert "Traceback" not in err
    assert list((tmp_path / "run").iterdir()) == []


def test_files_are_readable_by_others(run_cli, tmp_path):
    run_cli("analyze", "--scorer", "magnitude", "-o", tmp_path)
    assert stat.S_IMODE((tmp_path / "analysis.json").stat().st_mode) == 0o644


def test_results_are_written_whatever_rank_says(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, out, err = run_cli("analyze", "--scorer", "magnitude", "-o", tmp_path)
    assert code == 0, err
    assert "What it costs" in out
    assert (tmp_path / "analysis.json").is_file()


def test_half_a_launcher_is_one_line(run_cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run_cli("analyze", "--scorer", "magnitude")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "accelerate launch" in err


def test_the_checkpoint_with_and_without_its_flag(run_cli):
    shared = ("--scorer", "magnitude", "--json")
    texts = [run_cli("analyze", *path, *shared)[1] for path in ((DEMO,), ("--ckpt", DEMO))]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["model"]["ckpt"] == str(DEMO)


@pytest.mark.parametrize("scorer", ["fisher", "taylor", "loss", "activation"])
def test_one_image_is_enough_and_has_no_halves(run_cli, scorer):
    code, out, err = run_cli("analyze", "--samples", 1, "--scorer", scorer, "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert (numbers["samples"], numbers["stability"]) == (1, {})


def test_a_pair_of_sizes_is_analysed_planned_applied_and_emitted(run_cli, tmp_path):
    run, recipe = tmp_path / "run", tmp_path / "half.yaml"
    code, _, err = run_cli("analyze", DEMO, "--img-size", "28,56", "--data", "demo", "--samples", 16, "-o", run)
    assert code == 0, err
    code, _, err = run_cli("plan", run, "--keep-macs", 0.5, "-o", recipe)
    assert code == 0, err
    assert "img_size: [28, 56]" in recipe.read_text()
    code, _, err = run_cli("apply", recipe, "--no-bench", "--eval-samples", 20, "-o", tmp_path / "pruned")
    assert code == 0, err
    assert load_pruned(tmp_path / "pruned")(torch.zeros(1, 1, 28, 56)).shape == (1, 10)
    for planned in (recipe, tmp_path / "pruned" / "recipe.yaml"):
        code, out, err = run_cli("emit", planned, "--macs", "20M", "--no-bench", "--json")
        assert code == 0, err
        args = json.loads(out)[0]["network"]["args"]
        assert (args["img_size"], args["in_chans"], args["num_classes"]) == ([28, 56], 1, 10)
