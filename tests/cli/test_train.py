"""The verbs `train` and `compare` on the command line."""

import json

import pytest
from support.training import SMALL, described, finished_run, folder_of_images

from prune_realloc.cli.train import _emitted
from prune_realloc.cli.trained import say_timm_command
from prune_realloc.data.images import DEMO
from prune_realloc.training.config import train_config


def test_command_lines(run_cli, tmp_path):
    (tmp_path / "variant").mkdir()
    variant = described(tmp_path / "variant")
    flags = ("--samples", "320", "--eval-split", "held-out", "--set", "epochs=1", "--set", "warmup_epochs=0")
    code, _, err = run_cli("train", variant, "--data", "demo", "--device", "cpu", *flags, "-o", tmp_path / "x-seed0")
    assert code == 0, err
    assert "epoch 1: loss" in err
    code, out, _ = run_cli("compare", tmp_path / "x-seed0", "--bench", "--plot", tmp_path / "plot.png")
    assert code == 0
    assert "ms" in out
    assert "top-1 %" in out
    assert (tmp_path / "plot.png").stat().st_size > 1000
    code, _, err = run_cli("train", tmp_path / "x-seed0", "--data", "demo", "-o", tmp_path / "z")
    assert code == 2
    assert "is the folder of a training run; give" in err
    code, _, err = run_cli("analyze", "-o", tmp_path / "x-seed0")
    assert code == 2
    assert "holds a training run; choose another folder" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "analysis.json").touch()
    code, _, err = run_cli("train", variant, "--data", "demo", "--device", "cpu", *flags, "-o", tmp_path / "mine")
    assert code == 2
    assert "holds analysis.json, of another verb; choose another folder" in err
    code, _, err = run_cli("train", variant, "--data", "demo", "--preset", "recover", "-o", tmp_path / "y")
    assert code == 2
    assert "preset 'recover' distils from the source; give it with --teacher" in err


def test_the_teacher_says_what_was_taken_of_it(run_cli, tmp_path):
    (tmp_path / "variant").mkdir()
    args = ("train", described(tmp_path / "variant"), "--data", "demo", "--device", "cpu", "--teacher", "demo")
    args += ("--samples", 64, "--eval-split", "held-out", "--set", "epochs=1", "--set", "batch_size=32")
    code, out, err = run_cli(*args, "--json", "-o", tmp_path / "run")
    assert code == 0, err
    assert "\ntook of the teacher: weights model.safetensors: all tensors" in err
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads(out)["teacher_taken"] == stored["teacher_taken"]
    assert stored["teacher_taken"]["classes"]["value"] == 10
    code, _, err = run_cli(*args, "--seeds", 1, "-o", tmp_path / "runs")
    assert code == 0, err
    took = [line for line in err.splitlines() if line.startswith("took")]
    assert len(took) == len({*took})  # once, though every seed goes by them
    assert any(line.startswith("took of the teacher: ") for line in took)


def test_timms_command_has_the_arguments_that_were_given(run_cli, tmp_path):
    (tmp_path / "variant").mkdir()
    data = folder_of_images(tmp_path / "data", each=2)
    args = ("--set", "epochs=1", "--set", "batch_size=4", "--model-arg", "qk_dim=8", "--num-classes", 10)
    code, _, err = run_cli("train", described(tmp_path / "variant"), "--data", data, *args, "-o", tmp_path / "run")
    assert code == 0, err
    assert "the same with timm's train.py, as far as it goes: python -c " in err  # no flag is left out
    for words in (f"--model local-dir:{tmp_path / 'variant'} ", "--num-classes 10 ", "--model-kwargs qk_dim=8 "):
        assert words in err
    assert "--input-size 1 28 28 " in err


def test_of_images_that_timm_does_not_read_there_is_no_command(tmp_path, capsys):
    (tmp_path / "run" / "last").mkdir(parents=True)
    described(tmp_path / "run" / "last")
    parts = {"split": "train", "eval_split": "validation"}
    for data in (tmp_path / "folder", DEMO):
        say_timm_command(train_config(**SMALL), "efficientvit_m0", str(data), tmp_path / "run", parts, {})
        assert ("timm's train.py" in capsys.readouterr().err) == (data != DEMO)


@pytest.mark.parametrize(("field", "said"), [("architecture", True), ("architectures", False)])
def test_of_a_folder_that_timm_does_not_read_there_is_no_command(tmp_path, capsys, field, said):
    for name in ("net", "run/last"):
        (tmp_path / name).mkdir(parents=True)
    described(tmp_path / "run" / "last")
    (tmp_path / "net" / "config.json").write_text(json.dumps({field: "vit"}))
    parts = {"split": "train", "eval_split": "validation"}
    say_timm_command(train_config(**SMALL), str(tmp_path / "net"), "torch/cifar10", tmp_path / "run", parts, {})
    assert ("timm's train.py" in capsys.readouterr().err) == said


def test_what_emit_wrote_trains_with_all_seeds_and_is_compared(run_cli, tmp_path):
    for name in ("realloc", "control"):
        (tmp_path / "variants" / name).mkdir(parents=True)
        described(tmp_path / "variants" / name)
    flags = (
        "--data",
        "demo",
        "--device",
        "cpu",
        "--samples",
        "64",
        "--eval-split",
        "held-out",
        "--set",
        "epochs=1",
        "--set",
        "batch_size=32",
        "--seeds",
        "2",
        "-o",
        tmp_path / "runs",
        "--json",
    )
    code, out, err = run_cli("train", tmp_path / "variants", *flags)
    assert code == 0, err
    groups = {group["name"]: group for group in json.loads(out)}
    assert {name: group["seeds"] for name, group in groups.items()} == {"realloc": [0, 1], "control": [0, 1]}
    assert groups["realloc"]["difference"] == 0.0  # both are the same network here
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "control-seed0",
        "control-seed1",
        "realloc-seed0",
        "realloc-seed1",
    ]


def test_a_claim_against_its_controls(run_cli, tmp_path):
    values = {"measured": (0.81, 0.84), "uniform": (0.80, 0.83), "random-1": (0.82, 0.80), "random-2": (0.80, 0.79)}
    runs = [
        finished_run(tmp_path / f"{name}-seed{seed}", seed, top1)
        for name, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]
    code, out, err = run_cli("compare", *runs, "--controls", "measured")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "seeds top-1 % 95 % measured minus it, points 95 % over zero MACs params"
    assert lines[2].startswith("uniform 2 81.50 +-19.06 +1.00 +-0.00 yes 276,992")
    assert "random-* 2 80.25 81.00, random-1 0 rank 1 of 3 0.33" in lines
    assert lines[-1] == "measured is not shown to be above random-* (rank 1 of 3, p = 0.33)"
    code, out, _ = run_cli("compare", *runs, "--controls", "measured", "--json")
    found = json.loads(out)
    assert (found["verdict"], found["sets"][0]["p"]) == (lines[-1], 1 / 3)
    assert [row["name"] for row in (found["claiming"], *found["controls"])] == list(values)
    for flags in (["--control", "uniform"], ["--bench"], ["--plot", tmp_path / "plot.png"]):
        code, _, err = run_cli("compare", *runs, "--controls", "measured", *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert f"--controls has a table of its own; leave out {flags[0]}, or" in err
    code, _, err = run_cli("compare", *runs, "--controls", "planned")
    assert code == 2
    assert "group 'planned' is not there; give one of measured, uniform, random-1, random-2" in err


@pytest.mark.parametrize("there", [("realloc", "control"), ("realloc", "control", "unmeasured"), ("realloc",)])
def test_all_networks_that_emit_wrote_are_trained(tmp_path, there):
    """Older folders have no unmeasured network."""
    for name in there:
        (tmp_path / name).mkdir()
        described(tmp_path / name)
    expected = [str(tmp_path / name) for name in there] if len(there) > 1 else [str(tmp_path)]
    assert _emitted(str(tmp_path)) == expected
