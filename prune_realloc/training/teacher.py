"""The networks that a run opens: the one that is trained, and the one that teaches it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model
from torch import Tensor, nn

from prune_realloc.checkpoints.create import create_fresh, create_published
from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import UNITS_FILE, WEIGHTS_FILES
from prune_realloc.core.structure import site_place
from prune_realloc.data.preprocessing import Preprocessing, preprocessing
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.units import read_units
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.features import Features, features


def is_stored(name: str | Path) -> bool:
    """Whether it is a file, a folder or the shipped ViT, and no name of timm's."""
    return Path(name).exists() or str(name) == "demo"


def is_untrained(source: str | Path) -> bool:
    """Whether it names a network without weights: a folder with a `config.json` alone, or one of timm's."""
    path = Path(source)
    if (path / "config.json").is_file():
        return not any((path / name).exists() for name in WEIGHTS_FILES)
    return not is_stored(source) and is_model(str(source).split(".")[0])


def open_student(name: str | Path, model_args: Mapping[str, Any], model: str | None = None) -> nn.Module:
    """What is trained: a stored network, one of the hub whose classifier may be new, or a new one of timm's."""
    if is_stored(name) or str(name).startswith("local-dir:"):
        return open_named(name, model=model, model_args=model_args)
    if ":" in str(name):
        return create_published(str(name), model_args).float().eval()
    return create_fresh(str(name), model_args=model_args)


def open_named(name: str | Path, **more: Any) -> nn.Module:
    """A checkpoint, the shipped ViT, or a network that timm knows."""
    if str(name) == "demo":
        return load_model(**more)
    if Path(name).exists():
        return load_model(ckpt=name, **more)
    if more.pop("model", None) is not None:
        raise InputError(f"model: {str(name)!r} is a name already; only a checkpoint is given one")
    return load_model(str(name), **more)


class Teacher(nn.Module):
    """Another network on the student's images: its logits, or its features."""

    def __init__(
        self,
        name: str | Path,
        options: Mapping[str, Any],
        student: nn.Module,
        prepare: Preprocessing,
        device: torch.device,
    ) -> None:
        super().__init__()
        try:
            self.net = open_named(name, pretrained=not is_stored(name), **options).to(device)
        except InputError as error:
            raise InputError(f"teacher {str(name)!r} cannot be opened: {error}") from error
        self.requires_grad_(False).eval()
        theirs, ours = input_shape(self.net), input_shape(student)
        wanted = count_classes(student)
        if theirs != ours or wanted not in (0, count_classes(self.net)):
            raise InputError(
                f"teacher {str(name)!r} takes {theirs} and knows {count_classes(self.net)} classes, the "
                f"network {ours} and {wanted}; they must be the same"
            )
        self.channels: Tensor | None = None
        """Those of its features that the student has; None: all."""
        own = self.prepare = preprocessing(self.net, theirs, {})
        # from the student's normalisation to the teacher's
        scale = torch.tensor(prepare.std) / torch.tensor(own.std)
        shift = (torch.tensor(prepare.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.scale, self.shift = (t[:, None, None].to(device) for t in (scale, shift))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, C)."""
        logits: Tensor = self.net(images * self.scale + self.shift).float()
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Those that the student has too."""
        found = features(self.net, images * self.scale + self.shift)
        return found if self.channels is None else found.of_channels(self.channels)


@torch.no_grad()
def channels_taught(teacher: nn.Module, student: nn.Module, source: str | Path, units: bytes | None) -> Tensor | None:
    """Which of the teacher's features a student without a classifier has, shape (D,); None: all.

    Args:
        source: where the student is from, for the message.
        units: the `units.json` beside it; None: there is none.

    Raises:
        InputError: it has another number of features, and nothing tells which of the teacher's they are.
    """
    first = next(student.parameters())
    theirs, mine = (features(net, first.new_zeros(1, *input_shape(net))).pooled.shape[1] for net in (teacher, student))
    if mine == theirs:
        return None
    streams = (
        [] if units is None else [each for name, each in read_units(units).items() if site_place(name)[0] == "embed"]
    )
    kept = [each.index for each in streams if (len(each.index), each.of) == (mine, theirs)]
    if not kept:
        raise InputError(
            f"teacher has {theirs} features, {str(source)!r} {mine}, and no {UNITS_FILE} beside that says which of "
            "them these are; give the folder that apply wrote, or cut without the stream (--axes qk,v,ffn)"
        )
    return torch.as_tensor(kept[-1], device=first.device)
