import json

import pytest


def test_two_networks_side_by_side(run_cli, tmp_path):
    name = "vit_tiny_patch16_224"
    code, out, err = run_cli("profile", "demo", "--batch", 2, "--seconds", 0.5, "--threads", 1, "-o", tmp_path)
    assert code == 0, err
    assert "demo, batch 2: " in out
    assert "between operators" in out
    numbers = json.loads((tmp_path / "profile.json").read_text())
    [each] = numbers["passes"]
    assert sum(each["kinds"].values()) == pytest.approx(each["wall_ms"], rel=0.05)
    assert numbers["sentences"][0] in (tmp_path / "profile.html").read_text()
    code, out, err = run_cli("profile", "demo", name)
    assert (code, out) == (2, "")
    assert "takes images of shape" in err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("none.pth",), "does not exist"),
        (("--batch", 0), "batch must be at least 1"),
        (("demo", "demo"), "named twice"),
    ],
)
def test_bad_input_is_one_line(run_cli, args, complaint):
    code, out, err = run_cli("profile", *args)
    assert (code, out) == (2, "")
    assert complaint in next(line for line in err.splitlines() if line.startswith("prune-realloc:"))
