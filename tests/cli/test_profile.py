import json
import re

import pytest


def test_two_networks_side_by_side(run_cli, tmp_path):
    name = "vit_tiny_patch16_224"
    code, out, err = run_cli("profile", "demo", "--batch", 2, "--seconds", 0.5, "--threads", 1, "-o", tmp_path)
    assert code == 0, err
    assert "demo, batch 2: " in out
    assert re.search(r"profiling demo, batch 2: about \d+ s", err)
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
        (("--train", "demo"), "only the networks of --sweep-mhsa are trained"),
        (("--sweep-mhsa", "0.2", "--train", "demo"), "name it with -o"),
        (("--sweep-mhsa", "0.2", "0.2"), "given twice"),
        (("--sweep-mhsa", "0.2,x"), "is not a list of numbers"),
        (("--sweep-mhsa", "0.2", "1.5"), "1.5 is no share"),
        (("demo", "vit_tiny_patch16_224", "--sweep-mhsa", "0.2"), "takes the cost of one network"),
    ],
)
def test_bad_input_is_one_line(run_cli, args, complaint):
    code, out, err = run_cli("profile", *args)
    assert (code, out) == (2, "")
    assert complaint in next(line for line in err.splitlines() if line.startswith("prune-realloc:"))


def test_networks_of_equal_cost_with_other_shares_of_attention(run_cli, tmp_path):
    fast = ("--batch", 1, "--seconds", 0, "--threads", 1)
    code, out, err = run_cli("profile", "demo", "--sweep-mhsa", 0.2, 0.5, *fast, "-o", tmp_path)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["0.2", "0.200", "2.00"], ["0.5", "0.500", "0.50"]]
    found = json.loads((tmp_path / "sandwiches.json").read_text())["networks"]
    assert found[0]["macs"] == pytest.approx(found[1]["macs"], rel=0.02)
    assert list(found[0]["ms"]) == ["1"]
