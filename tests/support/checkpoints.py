"""Checkpoint files for tests, and a pickle that shows whether it ran."""

import os
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from prune_realloc.runtime.networks import model_identity
from support.networks import randomise_

# the smallest network that timm knows by name
DEIT = "deit_tiny_patch16_224"


def make_deit() -> nn.Module:
    return randomise_(timm.create_model(DEIT))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return model_identity(a)["weights_sha256"] == model_identity(b)["weights_sha256"]


class Hostile:
    """A pickle of it makes the folder `marker` when it is executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)
