"""Fixtures that every room uses."""

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from support.networks import build
from torch import Tensor

torch.set_num_threads(1)  # tiny networks: a second thread waits more than it works
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor in processes that tests start
gc.set_threshold(50_000, 20, 50)
settings.register_profile("no clock", deadline=None)  # no test asserts a time
settings.load_profile("no clock")


def pytest_collection_finish() -> None:
    gc.freeze()  # a collection would walk through all of torch and timm, a tenth of the suite's time


@pytest.fixture
def tiny_vit() -> Any:
    return build()


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; returns exit code, stdout and stderr."""
    from prune_realloc.cli.app import main

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["prune-realloc", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
