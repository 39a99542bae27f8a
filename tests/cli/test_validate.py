"""The verb `validate`."""

import json
import subprocess
import sys

from support.recipes import HALF, SCHEMA, SHIPPED


def test_validate_lists_every_problem(run_cli, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(HALF)
    bad.write_text("budget: {keep_macs: 2}\nscorer: fishr\n")
    assert run_cli("validate", good) == (0, f"{good}: ok\n", "")
    code, out, err = run_cli("validate", good, bad)
    assert (code, err) == (2, "")
    assert out.splitlines() == [
        f"{good}: ok",
        f"{bad}:1:10: budget.keep_macs: must be at most 1, got 2",
        f"{bad}:2:1: scorer: unknown value 'fishr'; did you mean 'fisher'?",
    ]


def test_validate_as_json(run_cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("budget: {keep_macs: 2}\n")
    code, out, _ = run_cli("validate", "--json", tmp_path / "bad.yaml")
    assert code == 2
    assert json.loads(out) == [
        {
            "file": str(tmp_path / "bad.yaml"),
            "problems": [{"line": 1, "column": 10, "field": "budget.keep_macs", "message": "must be at most 1, got 2"}],
        }
    ]


def test_validate_prints_the_schema(run_cli):
    code, out, _ = run_cli("validate", "--schema")
    assert (code, out) == (0, SCHEMA.read_text())


def test_validate_needs_a_file_that_is_there(run_cli, tmp_path):
    for args, complaint in (((), "needs a FILE"), ((tmp_path / "none.yaml",), "none.yaml' cannot be read")):
        code, out, err = run_cli("validate", *args)
        assert (code, out) == (2, "")
        assert complaint in err


def test_validate_imports_nothing_heavy():
    probe = f"""import sys
sys.argv = ["prune-realloc", "validate", {str(SHIPPED[0])!r}]
from prune_realloc.cli.app import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", [m for m in ("torch", "timm", "matplotlib") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert "ok" in out
    assert "HEAVY []" in out
