"""Runs the command line on an input, in this process or in one of its own, and judges what came of it."""

import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_cases import Case

SECONDS = 60
"""For one case; it is stopped then."""
MEMORY = 6 << 30
"""Bytes that a process may take beyond what it has when it starts."""
ROOT = Path(__file__).parent.parent
_HARMLESS = ("note:", "took ", "wrote ")
"""How lines on stderr begin that say something and are no errors."""


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    connections: int = 0
    """How often it tried to reach another machine; unknown of a process of its own."""


class TooSlow(BaseException):
    """No `except Exception` catches it."""


def limit_memory() -> None:
    """From here on an allocation beyond `MEMORY` fails in this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def run_here(case: Case) -> Outcome:
    """In this process; stderr is what all libraries write there, C ones too."""
    from prune_realloc.cli.app import main

    def late(signum: int, frame: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    sys.argv, code, started, tries = ["prune-realloc", *case.args], 0, time.perf_counter(), _count_connections()
    with _captured(case.folder) as (out, err):
        try:
            main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
        except TooSlow:
            code = -signal.SIGALRM
            traceback.print_exc()
        except BaseException:
            code = 1
            traceback.print_exc()
        finally:
            signal.alarm(0)
    texts = [path.read_text(errors="backslashreplace") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    return Outcome(code, *texts, time.perf_counter() - started, len(tries))


def run_apart(case: Case) -> Outcome:
    """In a process of its own, as a user's shell does."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "prune_realloc", *case.args]
    found = subprocess.run(command, capture_output=True, env=environment, timeout=2 * SECONDS, check=False)
    texts = [text.decode(errors="backslashreplace") for text in (found.stdout, found.stderr)]
    return Outcome(found.returncode, *texts, time.perf_counter() - started)


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def problems(case: Case, outcome: Outcome, before: set[Path]) -> list[str]:
    """What must not have happened, each as its kind and where it came from.

    `before` are the files of its folder from before the run.
    """
    found = []
    new = files_of(case.folder) - before
    lines = [line for line in outcome.stderr.splitlines() if line.strip() and "━" not in line]
    errors = [line for line in lines if line.startswith("prune-realloc:")]
    others = [line for line in lines if line not in errors and not line.startswith(_HARMLESS)]
    if (case.folder / "marker").exists():
        found.append("code was executed")
    if outcome.connections:
        found.append("another machine was asked")
    if "Traceback (most recent call last)" in outcome.stderr:
        found.append(f"traceback: {raised(outcome.stderr)}")
    elif outcome.code not in (0, 2):
        found.append(f"exit code {outcome.code}: {' '.join(errors)[:160]}")
    elif outcome.code == 2 and case.args[0] == "validate" and not errors:
        stray = [line for line in outcome.stdout.splitlines() if not line.startswith(f"{case.args[1]}:")]
        found += [f"a problem on several lines: {line[:80]!r}" for line in stray[:1]]
    elif outcome.code == 2 and (len(errors) != 1 or lines[-1] != errors[0]):
        found.append(f"error on several lines: {' | '.join(lines)[:160]!r}")
    elif others:
        found.append(f"another line on stderr: {others[0][:100]!r}")
    if any(not character.isprintable() for line in errors for character in line):
        found.append(f"control characters in the error: {errors[0][-100:]!r}")
    if partial := [path for path in new if path.name.endswith(".partial") or path.name.startswith(".")]:
        found.append(f"half-written: {partial[0].name}")
    if outcome.code != 0 and new:
        found.append(f"files in spite of exit code {outcome.code}: {sorted(path.name for path in new)[:3]}")
    return found


def raised(text: str) -> str:
    """The exception at the end of a traceback, and the last place in the package that it came through."""
    lines = text.splitlines()
    places = [line.strip() for line in lines if "prune_realloc/" in line and line.strip().startswith("File ")]
    words = places[-1].split("prune_realloc/", 1)[1].replace('"', "") if places else "nowhere of ours"
    last = next((line for line in reversed(lines) if line and not line[0].isspace() and "Error" in line), lines[-1])
    return f"{last.split(':')[0]} at {words} ({last[:120]})"


def _count_connections() -> list[Any]:
    """Grows with each attempt of this process to reach another machine."""
    import socket

    tries: list[Any] = []
    for name in ("getaddrinfo", "create_connection"):

        def refuse(*args: Any, **options: Any) -> Any:
            tries.append(args)
            raise OSError("no machine is reached here")

        setattr(socket, name, refuse)
    return tries


@contextmanager
def _captured(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Sends what this process writes to two files beside `folder`."""
    paths = (folder.with_suffix(".out"), folder.with_suffix(".err"))
    kept = [os.dup(number) for number in (1, 2)]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number, path in zip((1, 2), paths, strict=True):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    try:
        yield paths
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, handle in zip((1, 2), kept, strict=True):
            os.dup2(handle, number)
            os.close(handle)
