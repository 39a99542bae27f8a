"""Networks as the verbs that time them take them: a checkpoint, a folder, or the name of an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_realloc.cli.console import say_notes
from prune_realloc.cli.values import parse_pairs
from prune_realloc.core.errors import InputError
from prune_realloc.recipe.document import Source
from prune_realloc.recipe.options import checked_part

if TYPE_CHECKING:
    from torch import nn


def opened(network: Source) -> nn.Module:
    """The network; a name of timm's alone is enough where weights do not matter."""
    from prune_realloc.checkpoints.create import create_fresh
    from prune_realloc.results.opening import open_network

    if network.model is None or network.ckpt is not None or ":" in network.model:
        return open_network(network)
    say_notes([f"{network.model} has new weights, times do not depend on them"])
    return create_fresh(network.model, img_size=network.img_size, model_args=network.model_args)


def named(text: str) -> Source:
    """What a word on the command line names: `demo`, timm's name of an architecture, else a file or folder."""
    import timm

    if text == "demo":
        return Source()
    if not Path(text).exists() and timm.is_model(text):
        return Source(model=text)
    return Source(ckpt=text)


def name_of(network: Source) -> str:
    """What the command line called it."""
    return str(network.ckpt or network.model or "demo")


def compared(source: str | None, model: str | None, args: Sequence[str]) -> Source | None:
    """The network to compare with, and how it is built; None where none is named."""
    if source is None:
        if args or model is not None:
            raise InputError("source-model, source-arg: no source is named; give its checkpoint with --source")
        return None
    ckpt = None if source == "demo" else source
    return checked_part(Source, {"ckpt": ckpt} | told(model, args, "source-arg"))


def told(model: str | None, args: Sequence[str], flag: str) -> dict[str, Any]:
    """How a network is opened beside its name, where that is said; fields of `Source`.

    Args:
        flag: that gave `args`, for messages.
    """
    given = {"model": model, "model_args": parse_pairs(args, flag)}
    return {name: value for name, value in given.items() if value}
