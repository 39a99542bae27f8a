"""The command line as a whole: help, unknown flags."""

import subprocess
import sys


def test_unknown_flag_is_exit_code_2(run_cli):
    code, _, err = run_cli("analyze", "--colour", "red")
    assert code == 2
    assert "--colour" in err


def test_an_error_is_one_line_whatever_a_path_holds(run_cli, tmp_path):
    (tmp_path / "two\nlines\x1b[31m").mkdir()
    code, out, err = run_cli("analyze", tmp_path / "two\nlines\x1b[31m", "--scorer", "magnitude")
    assert (code, out) == (2, "")
    assert [line for line in err.splitlines() if "━" not in line and r"two\nlines\x1b[31m" in line]
    assert "\x1b" not in err


def test_help_imports_nothing_heavy():
    probe = """import sys
sys.argv = ["prune-realloc", "--help"]
from prune_realloc.cli.app import main
try:
    main()
except SystemExit:
    print("HEAVY", [m for m in ("torch", "timm", "matplotlib") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert "analyze" in out
    assert "HEAVY []" in out
