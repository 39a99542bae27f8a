import json

import pytest


def test_of_the_shipped_network(run_cli):
    code, out, err = run_cli("heads", "--samples", 8, "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert (len(numbers["blocks"]), numbers["samples"], numbers["labelled"]) == (12, 8, True)
    assert all(len(block["removal"]) == 4 and block["maps"]["mean"] < 1 for block in numbers["blocks"])


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--model", "vit_tiny_patch16_224"), "comes without weights"),
        (("--batch-size", 0), "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_one_line(run_cli, args, complaint):
    code, out, err = run_cli("heads", *args)
    assert (code, out) == (2, "")
    assert complaint in next(line for line in err.splitlines() if line.startswith("prune-realloc:"))
