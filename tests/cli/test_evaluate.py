"""The verb `eval` on the command line."""

import json


def test_both_networks_say_what_was_taken_of_them(run_cli):
    args = ("eval", "--source", "demo", "--data", "demo", "--samples", 2)
    code, _, err = run_cli(*args)
    assert code == 0, err
    (ours,) = (line for line in err.splitlines() if line.startswith("took weights"))
    (theirs,) = (line for line in err.splitlines() if line.startswith("took of the source: weights"))
    assert "mean" in ours
    assert "mean" not in theirs
    _, out, err = run_cli(*args, "--json")
    assert "took of the source: " in err
    assert json.loads(out)["source_taken"]["weights"]["value"] == "model.safetensors: all tensors"
