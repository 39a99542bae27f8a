"""What the tests of training share."""

from pathlib import Path

import pytest
from support.training import described

from prune_realloc.training import images


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network as `emit` writes it."""
    return described(tmp_path_factory.mktemp("variant"))


@pytest.fixture(autouse=True)
def few_images_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on a few of the shipped images would spend most of their time on evaluating the others."""
    monkeypatch.setattr(images, "HELD_OUT", 400)
