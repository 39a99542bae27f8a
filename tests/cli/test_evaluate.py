"""The verb `eval` on the command line."""

import json


def test_both_networks_say_what_was_taken_of_them(run_cli):
    args = ("eval", "--source", "demo", "--data", "demo", "--samples", 2)
    code, _, err = run_cli(*args)
    assert code == 0, err
    (ours,) = (line for line in err.splitlines() if line.startswith("took weights"))
    (theirs,) = (line for line in err.splitlines() if line.startswith("took of the source: weights"))
    assert ours == theirs.replace("of the source: ", "")
    assert any(line.startswith("took") and "mean" in line for line in err.splitlines())
    assert not any(line.startswith("took of the source") and "mean" in line for line in err.splitlines())
    _, out, err = run_cli(*args, "--json")
    assert "took of the source: " in err
    assert json.loads(out)["source_taken"]["weights"]["value"] == "model.safetensors: all tensors"
