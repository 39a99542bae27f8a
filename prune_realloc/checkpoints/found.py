"""What a checkpoint holds and states, before its architecture is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.containers import Weights, select_weights
from prune_realloc.checkpoints.layouts import LAYOUTS, translate
from prune_realloc.checkpoints.layouts.translated import Translated
from prune_realloc.checkpoints.prefixes import Unwrapped, as_it_is, unwrapped
from prune_realloc.core.taken import Fact
from prune_realloc.families import FAMILIES


@dataclass
class Checkpoint:
    """A file's content, before the architecture is known; what it says of the network passed the rule of `allowed`."""

    state: dict[str, Tensor]
    """The tensors by the names that the network gives them."""
    architecture: str | None = None
    """timm's name of the network, where the file states one."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """The arguments for `timm.create_model` that the file states."""
    hints: dict[str, Any] = field(default_factory=dict)
    """What it says of such arguments in other words, where the shapes do not say more."""
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    """The fields of timm's `pretrained_cfg` that the file states, as far as they describe the network."""
    files_sha256: dict[str, str] = field(default_factory=dict)
    """The files that a `config.json` was written with: name -> SHA-256. Empty where it names none, as timm's do not."""
    origins: dict[str, str] = field(default_factory=dict)
    """What states the architecture (`name`), an argument, or a field of `pretrained_cfg`: a key in the file."""
    norm_eps: float | None = None
    """Epsilon of all layer norms, where timm's network has another and takes none as an argument."""
    taken: dict[str, Fact] = field(default_factory=dict)
    """Which weights of the file these are, and what was left out."""


def with_weights(
    found: Checkpoint,
    content: Mapping[str, Any],
    path: Path,
    ema: bool | None,
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The weights of a file's content into `found`, by timm's names, with what was taken and left out.

    Args:
        config, preprocessor: those of the folder, where another library wrote it.
    """
    weights = select_weights(content, path, ema)
    _take_weights(found, weights, path, ema)
    bare = as_it_is(weights.state)
    if not _is_foreign(weights.state, config):
        bare = unwrapped(weights.state, _is_network)
    found.state = bare.state
    _take_names(found, bare)
    translated = translate(bare.state, config, preprocessor)
    if translated is not None:
        _take_translation(found, translated)
    return found


def _take_weights(found: Checkpoint, weights: Weights, path: Path, ema: bool | None) -> None:
    value = f"{path.name}: {weights.place or 'all tensors'}{', averaged' if weights.averaged else ''}"
    origin = "--ema" if ema is not None else "the file"
    if weights.others:
        origin += f"; it also holds {', '.join(weights.others)}"
    found.taken["weights"] = Fact(value, origin)


def _take_names(found: Checkpoint, bare: Unwrapped) -> None:
    if bare.prefix:
        found.taken["prefix"] = Fact(bare.prefix, "common to all names")
    _take_left_out(found, bare.left_out)
    if bare.head:
        found.taken["head"] = Fact(bare.head, "its place behind the backbone", guessed=True)


def _take_left_out(found: Checkpoint, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        found.taken["tensors left out"] = Fact(len(names), f"not the network's by their names: {shown}")


def _take_translation(found: Checkpoint, translated: Translated) -> None:
    """What another library's layout comes down to."""
    found.state, found.norm_eps = translated.state, translated.norm_eps
    found.architecture = found.architecture or translated.architecture
    found.model_args = translated.model_args | found.model_args
    found.pretrained_cfg = translated.pretrained_cfg | found.pretrained_cfg
    found.origins = dict.fromkeys(("name", *found.model_args, *found.pretrained_cfg), translated.origin) | found.origins
    found.taken["layout"] = Fact(translated.origin, "the tensors' names")
    _take_left_out(found, translated.left_out)
    if translated.notes:
        found.taken["supposed"] = Fact("; ".join(translated.notes), "what is usual", guessed=True)


def _is_network(state: Mapping[str, Tensor]) -> bool:
    return any(family.recognises(state) for family in FAMILIES.values()) or _is_foreign(state, None)


def _is_foreign(state: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> bool:
    return any(layout.recognise(state, config) for layout in LAYOUTS.values())
