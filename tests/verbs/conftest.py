"""What several verbs' tests look at."""

from typing import Any

import pytest
import torch
from support import convs as of_convs
from support.applying import QUICK, half

from prune_realloc import apply
from prune_realloc.families import CUTTABLE, FAMILIES


@pytest.fixture(scope="session")
def applied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    return apply(half(), out=folder, **QUICK), folder


@pytest.fixture
def convs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network of convolutions and FFNs in float32, its family known to the program."""
    for families in (FAMILIES, CUTTABLE):
        monkeypatch.setitem(families, "convs", of_convs)
    return of_convs.network(torch.float32)
