"""The networks that a run opens: the one that is trained, and the one that teaches it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_realloc.checkpoints.create import create_fresh, create_published
from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import WEIGHTS_FILES
from prune_realloc.data.preprocessing import Preprocessing, preprocessing
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes


def is_stored(name: str | Path) -> bool:
    """Whether it is a file, a folder or the shipped ViT, and no name of timm's."""
    return Path(name).exists() or str(name) == "demo"


def is_untrained(source: str | Path) -> bool:
    """Whether it names a network without weights: a folder with a `config.json` alone, or one of timm's."""
    path = Path(source)
    if (path / "config.json").is_file():
        return not any((path / name).exists() for name in WEIGHTS_FILES)
    return not is_stored(source) and ":" not in str(source)


def open_student(name: str | Path, model_args: Mapping[str, Any]) -> nn.Module:
    """What is trained: a stored network, one of the hub whose classifier may be new, or a new one of timm's."""
    if is_stored(name) or str(name).startswith("local-dir:"):
        return open_named(name, model_args=model_args)
    if ":" in str(name):
        return create_published(str(name), model_args).float().eval()
    return create_fresh(str(name), model_args=model_args)


def open_named(name: str | Path, **more: Any) -> nn.Module:
    """A checkpoint, the shipped ViT, or a network that timm knows."""
    if str(name) == "demo":
        return load_model(**more)
    return load_model(ckpt=name, **more) if Path(name).exists() else load_model(str(name), **more)


class Teacher:
    """Logits of another network for the student's images."""

    def __init__(self, name: str | Path, student: nn.Module, prepare: Preprocessing, device: torch.device) -> None:
        try:
            self.net = open_named(name, pretrained=not is_stored(name)).to(device)
        except InputError as error:
            raise InputError(f"teacher {str(name)!r} cannot be opened: {error}") from error
        self.net.requires_grad_(False)
        theirs, ours = input_shape(self.net), input_shape(student)
        if theirs != ours or count_classes(self.net) != count_classes(student):
            raise InputError(
                f"teacher {str(name)!r} takes {theirs} and knows {count_classes(self.net)} classes, the "
                f"network {ours} and {count_classes(student)}; they must be the same"
            )
        own = self.prepare = preprocessing(self.net, theirs, {})
        # from the student's normalisation to the teacher's
        scale = torch.tensor(prepare.std) / torch.tensor(own.std)
        shift = (torch.tensor(prepare.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.scale, self.shift = (t[:, None, None].to(device) for t in (scale, shift))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images * self.scale + self.shift).float()
