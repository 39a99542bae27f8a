import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support.networks import build

from prune_realloc import Analysis, analyze
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
        "class count": (("--data", wrong), "2 classes, the model 10"),
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


def test_unknown_flag_is_exit_code_2(run_cli):
    code, _, err = run_cli("analyze", "--colour", "red")
    assert code == 2
    assert "--colour" in err


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


def test_help_imports_nothing_heavy():
    probe = """import sys
sys.argv = ["prune-realloc", "--help"]
from prune_realloc.cli.app import main
try:
    main()
except SystemExit:
    print("HEAVY", [m for m in ("torch", "timm", "matplotlib") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert "analyze" in out
    assert "HEAVY []" in out


def test_demo_runs_every_step(run_cli, tmp_path):
    code, out, err = run_cli("demo", "-o", tmp_path / "demo")
    assert code == 0, err
    assert "top-1" in out
    assert "Before and after" in out
    assert "1024/1024" in err
    assert "to the control" in out
    for name in (
        "report.html",
        "half.yaml",
        "pruned/model.safetensors",
        "pruned/result.json",
        "variants/control/model_card.md",
        "trained/realloc/result.json",
    ):
        assert (tmp_path / "demo" / name).is_file(), name
    reports = re.findall(r"(\S+\.(?:html|md)) \(", out)
    assert len(reports) == 3
    assert all(Path(report).is_file() for report in reports)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    analyze(samples=64, batch_size=32).save(folder)
    return folder


def test_plan_then_apply(run_cli, run_folder, tmp_path):
    recipe = tmp_path / "half.yaml"
    code, out, err = run_cli(
        "plan",
        run_folder,
        "--keep-macs",
        0.5,
        "--round-to",
        "ffn=32",
        "--freeze",
        "v=10-11",
        "--floor",
        "qk=8",
        "-o",
        recipe,
    )
    assert code == 0, err
    assert "What stays" in out
    assert run_cli("validate", recipe)[:2] == (0, f"{recipe}: ok\n")
    code, planned, _ = run_cli("plan", run_folder, "--recipe", recipe, "--json")
    sites = json.loads(planned)["plan"]["sites"]
    assert sites["blocks.11.v"] == {"width": 16, "of": 16, "reason": "frozen"}
    assert all(site["width"] % 32 == 0 for name, site in sites.items() if name.endswith("ffn"))
    assert all(site["width"] >= 8 for name, site in sites.items() if name.endswith("qk"))
    args = ("apply", recipe, "--no-bench", "--eval-samples", 100, "-o", tmp_path / "pruned")
    code, out, err = run_cli(*args, "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert numbers["macs"]["achieved"] <= numbers["requested"]["macs"]
    assert set(numbers["top1"]) == {"source", "achieved"}
    code, out, err = run_cli(*args)
    assert code == 0, err
    assert "Before and after" in out
    code, out, err = run_cli("eval", tmp_path / "pruned", "--data", "demo", "--samples", 50, "--source", "demo")
    assert code == 0, err


def test_plan_takes_rules_from_a_recipe_and_the_rest_from_the_analysis(run_cli, run_folder, tmp_path):
    (tmp_path / "rules.yaml").write_text(
        "source: {model: deit_small_patch16_224}\ndata: {samples: 5}\nscorer: magnitude\n"
        "budget: {keep_macs: 0.6}\nrules: {v: {freeze: true}}\n"
    )
    code, out, err = run_cli("plan", run_folder, "--recipe", tmp_path / "rules.yaml", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["source"].get("model") is None
    assert (planned["data"]["samples"], planned["scorer"]) == (64, "fisher")
    assert planned["budget"] == {"keep_macs": 0.6}
    assert planned["plan"]["sites"]["blocks.3.v"]["reason"] == "frozen"


def test_apply_plans_by_itself_and_flags_override_the_recipe(run_cli, tmp_path):
    (tmp_path / "r.yaml").write_text("budget: {keep_params: 0.6}\ndata: {samples: 999999}\n")
    code, out, err = run_cli(
        "apply", tmp_path / "r.yaml", "--samples", 32, "--eval-samples", 50, "--no-labels", "--json", "--no-bench"
    )
    assert code == 0, err
    numbers = json.loads(out)
    assert numbers["top1"] is None
    assert 0 < numbers["agreement"] <= 1
    assert numbers["requested"] == {"params": 362_962}


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--keep-macs", 0), "budget.keep_macs"),
        (("--keep-macs", 2), "budget.keep_macs"),
        (("--keep-macs", 0.5, "--macs", "6M"), "excludes"),
        (("--macs", "many"), "600000000"),
        ((), "budget"),
        (("--keep-macs", 0.01), "embed, heads may not change"),
        (("--keep-macs", 0.5, "--freeze", "qk", "--freeze", "v", "--freeze", "ffn"), "may not change"),
        (("--keep-macs", 0.5, "--axes", "qk,width"), "width"),
        (("--keep-macs", 0.5, "--round-to", "ffn"), "round_to 'ffn' is not KEY=VALUE, such as ffn=32"),
        (("--keep-macs", 0.5, "--floor", "qk=["), "floor 'qk=['"),
        (("--keep-macs", 0.5, "--floor", "qk=4", "--floor", "qk=8"), "given twice"),
        (("--keep-macs", 0.5, "--floor", "ffn=lots"), "rules.ffn"),
        (("--keep-macs", 0.5, "-o", "/dev/null/half.yaml"), "cannot be written"),
    ],
)
def test_bad_plans_are_one_line_and_exit_code_2(run_cli, run_folder, args, complaint):
    code, out, err = run_cli("plan", run_folder, *args)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, len(lines), out) == (2, 1, ""), err
    assert complaint in lines[0]


def test_bad_applications_are_one_line_and_exit_code_2(run_cli, tmp_path):
    (tmp_path / "good.yaml").write_text("budget: {keep_macs: 0.5}\n")
    (tmp_path / "bad.yaml").write_text("budgte: {keep_macs: 0.5}\n")
    (tmp_path / "file").touch()
    for args, complaint in (
        (("none.yaml",), "cannot be read"),
        ((tmp_path / "bad.yaml",), "prune-realloc validate"),
        ((tmp_path / "good.yaml", "--ckpt", tmp_path / "no.pth"), "does not exist"),
        ((tmp_path / "good.yaml", "--model", "deit_tiny_patch16_224"), "--ckpt"),
        ((tmp_path / "good.yaml", "-o", tmp_path / "file"), "a file is in the way"),
        ((tmp_path / "good.yaml", "--samples", 0), "data.samples"),
        ((tmp_path / "good.yaml", "--eval-samples", 0), "eval_samples"),
        ((tmp_path / "good.yaml", "--device", "tpu"), "choose auto"),
    ):
        code, out, err = run_cli("apply", *args)
        lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
        assert (code, len(lines), out) == (2, 1, ""), (args, err)
        assert complaint in lines[0], lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "file", "good.yaml"]
