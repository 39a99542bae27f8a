"""The verb `apply`."""

import json


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
        ((tmp_path / "good.yaml", "--tune", -1), "compensate.tune"),
        ((tmp_path / "good.yaml", "--eval-samples", 0), "eval_samples"),
        ((tmp_path / "good.yaml", "--device", "tpu"), "choose auto"),
    ):
        code, out, err = run_cli("apply", *args)
        lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
        assert (code, len(lines), out) == (2, 1, ""), (args, err)
        assert complaint in lines[0], lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "file", "good.yaml"]
