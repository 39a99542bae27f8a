"""Fixtures of this room."""

from typing import Any

import pytest
from support import bottlenecks as convolutions
from support import convs as of_convs
from support import two_streams as family

from prune_realloc.families import CUTTABLE, FAMILIES
from prune_realloc.pruning.ridge import RIDGES, Choice, Halves


@pytest.fixture
def two_streams(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network of two streams, its family known to the program."""
    for families in (FAMILIES, CUTTABLE):
        monkeypatch.setitem(families, "two_streams", family)
    return family.network()


@pytest.fixture
def convs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network of convolutions and FFNs, its family known to the program."""
    for families in (FAMILIES, CUTTABLE):
        monkeypatch.setitem(families, "convs", of_convs)
    return of_convs.network()


@pytest.fixture
def bottlenecks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of the network of convolutions is known to the program."""
    for families in (FAMILIES, CUTTABLE):
        monkeypatch.setitem(families, "bottlenecks", convolutions)


@pytest.fixture
def least_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer is fitted with the least ridge, whatever other images say."""
    monkeypatch.setattr(Halves, "choice", lambda *_: Choice(RIDGES[0], 0.0, 0.0, 0.0))
