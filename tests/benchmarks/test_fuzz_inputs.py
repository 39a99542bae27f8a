"""The command line holds on damaged inputs, and the script that says so would see it if it did not."""

import json
import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_some_of_every_kind(tmp_path):
    counts = ("--checkpoints", "45", "--images", "15", "--seed", "5", "--apart", "0")
    command = [sys.executable, SCRIPTS / "fuzz_inputs.py", *counts, "--out", tmp_path / "found.json"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = json.loads((tmp_path / "found.json").read_text())
    assert (done.returncode, found["failed"]) == (0, []), done.stderr
    assert (found["cases"], set(found["exit codes"])) == ({"checkpoint": 45, "image": 15}, {"0", "2"})


def test_a_number_stands_for_the_same_input_again(tmp_path):
    from fuzz_cases import Sound, checkpoint_case, image_case

    sound = Sound(tmp_path / "sound")
    for make in (checkpoint_case, image_case):
        for number in range(12):
            one, other = (make(sound, tmp_path / name, 3, number) for name in ("one", "two"))
            assert one.what == other.what
            contents = [
                {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                for folder in (one.folder, other.folder)
            ]
            assert contents[0].keys() == contents[1].keys()
            one.folder.rename(tmp_path / f"{make.__name__} one {number}")
            other.folder.rename(tmp_path / f"{make.__name__} other {number}")


def test_the_pickles_call_code_where_they_are_executed(tmp_path):
    from fuzz_values import Call, calls

    for number, name in enumerate(calls(tmp_path, tmp_path)):
        marker, evil = tmp_path / f"marker {number}", tmp_path / "evil.bin"
        evil.write_bytes(pickle.dumps(Call(Path.touch, marker)))
        torch.save({"a": calls(marker, evil)[name]}, tmp_path / "net.pth")
        with suppress(RuntimeError, EOFError):  # what was executed returns no tensors
            torch.load(tmp_path / "net.pth", weights_only=False)
        if name in ("os.system", "subprocess"):
            time.sleep(0.5)
        assert marker.exists(), name


@pytest.mark.parametrize(
    ("code", "stderr", "left", "problem"),
    [
        (0, "evaluating ━━━ 0/? images\nnote: x\n", "", None),
        (2, "evaluating ━━━ 0/? images\nprune-realloc: no\n", "", None),
        (1, "Traceback (most recent call last):\n  x\nKeyError: 1\n", "", "traceback: KeyError"),
        (1, "prune-realloc: no\n", "", "exit code 1"),
        (-9, "", "", "exit code -9"),
        (2, "", "", "several lines"),
        (2, "prune-realloc: no\nmore\n", "", "several lines"),
        (2, "prune-realloc: \x1b[31m\n", "", "control characters"),
        (0, "UserWarning: x\n", "", "another line"),
        (0, "", "marker", "code was executed"),
        (0, "", "out/.x.partial", "half-written"),
        (2, "prune-realloc: no\n", "out/analysis.json", "files in spite of"),
    ],
)
def test_what_must_not_happen_is_seen(tmp_path, code, stderr, left, problem):
    from fuzz_cases import Case
    from fuzz_runs import Outcome, problems

    if left:
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).touch()
    found = problems(Case("checkpoint 0", (), ("analyze",), tmp_path), Outcome(code, "", stderr, 0.1), set())
    assert any(problem in line for line in found) if problem else not found


def test_a_connection_and_a_stray_line_of_validate_are_seen(tmp_path):
    from fuzz_cases import Case
    from fuzz_runs import Outcome, problems

    case = Case("checkpoint 0", (), ("validate", "r.yaml"), tmp_path)
    assert problems(case, Outcome(0, "", "", 0.1, connections=1), set()) == ["another machine was asked"]
    assert not problems(case, Outcome(2, "r.yaml:1:1: x\n", "", 0.1), set())
    assert "several lines" in problems(case, Outcome(2, "r.yaml:1:1: x\ny\n", "", 0.1), set())[0]
