"""The verb `sweep`."""

import json
from pathlib import Path

import prune_realloc

SHIPPED = Path(prune_realloc.__file__).parent / "assets" / "demo_vit"


def test_a_sweep_of_a_recipe_is_a_table_and_a_folder(run_cli, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "budget: {keep_macs: 0.5}\nscorer: magnitude\ncompensate: {rotate: false, refit: false, mean_shift: false}\n"
    )
    flags = ("--data", "demo", "--samples", 16, "--eval-samples", 32, "--budgets", "0.8,0.5", "-o", tmp_path / "out")
    code, out, err = run_cli("sweep", tmp_path / "r.yaml", *flags)
    assert code == 0, err
    assert "budget 0.5 is done" in err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["source", "0.8", "0.5"]
    numbers = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [p["macs"]["achieved"] <= p["budget"] * p["macs"]["source"] for p in numbers["points"]] == [True, True]
    assert (tmp_path / "out" / "50.yaml").exists()


def test_bad_sweeps_are_one_line_and_exit_code_2(run_cli, tmp_path):
    (tmp_path / "good.yaml").write_text("budget: {keep_macs: 0.5}\n")
    (tmp_path / "file").touch()
    for args, complaint in (
        (("none.yaml",), "cannot be read"),
        ((tmp_path / "none",), "does not exist"),
        ((tmp_path / "good.yaml", "--budgets", "0.5,1.2"), "budgets: 1.2 is no share to cut to"),
        ((tmp_path / "good.yaml", "--budgets", "0.5,half"), "is not a list of numbers"),
        ((tmp_path / "good.yaml", "--budgets", "0.5,0.50"), "given twice"),
        ((tmp_path / "good.yaml", "--eval-samples", 0), "eval_samples"),
        ((tmp_path / "good.yaml", "-o", tmp_path / "file"), "a file is in the way"),
    ):
        code, out, err = run_cli("sweep", *args)
        lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
        assert (code, len(lines), out) == (2, 1, ""), (args, err)
        assert complaint in lines[0], lines


def test_a_sweep_of_an_analysis_or_a_checkpoint_finds_network_and_images(run_cli, tmp_path):
    fast = ("--eval-samples", 16, "--budgets", "0.5", "--json")
    code, _, err = run_cli("analyze", "--data", "demo", "--samples", 16, "-o", tmp_path / "run", "--json")
    assert code == 0, err
    points = []
    for source in ((tmp_path / "run",), (SHIPPED, "--data", "demo", "--samples", 16)):
        code, out, err = run_cli("sweep", *source, *fast)
        assert code == 0, err
        points += json.loads(out)["points"]
    assert points[0]["macs"] == points[1]["macs"]
    assert points[0]["kl"] == points[1]["kl"]
