"""The verb `eval` on the command line."""

import json

from prune_realloc.core.typed import read_typed
from prune_realloc.results.evaluate import Evaluation


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


def test_what_it_found_is_kept(run_cli, tmp_path):
    code, out, err = run_cli("eval", "--samples", 50, "--source", "demo", "--json", "-o", tmp_path)
    assert code == 0, err
    found = read_typed(Evaluation, tmp_path / "eval.json")
    assert (found.samples, found.agreement, found.top1) == (50, 1.0, json.loads(out)["top1"])
