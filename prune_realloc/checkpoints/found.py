"""What a checkpoint holds and states, before its architecture is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.containers import Weights, select_weights
from prune_realloc.checkpoints.index import indexed
from prune_realloc.checkpoints.layouts import layout_of, translate
from prune_realloc.checkpoints.layouts.translated import Translated
from prune_realloc.checkpoints.prefixes import Unwrapped, unwrapped
from prune_realloc.core.names import PREPROCESSING
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
    squares: dict[str, int] = field(default_factory=dict)
    """Key -> the side of a square input size that it states."""
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    """The fields of timm's `pretrained_cfg` that the file states, as far as they describe the network."""
    files_sha256: dict[str, str] = field(default_factory=dict)
    """The files that a `config.json` was written with: name -> SHA-256. Empty where it names none, as timm's do not."""
    origins: dict[str, str] = field(default_factory=dict)
    """What states the architecture (`name`), an argument, or a field of `pretrained_cfg`: a key in the file."""
    supposed: set[str] = field(default_factory=set)
    """Which of the arguments and fields nothing states: what is usual for such networks."""
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
    bare = unwrapped(weights.state, _is_network, partial(_is_foreign, config), _is_of_a_family)
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
        found.taken["prefix"] = Fact(bare.prefix, "what the network's names begin with")
    _take_left_out(found, bare.left_out)
    if bare.head:
        found.taken["head"] = Fact(bare.head, "its place behind the backbone", guessed=True)


def _take_left_out(found: Checkpoint, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        before = found.taken.get("tensors left out")
        count = len(names) + (before.value if before else 0)
        found.taken["tensors left out"] = Fact(count, f"not the network's by their names: {shown}")


def _take_translation(found: Checkpoint, translated: Translated) -> None:
    """What another library's layout comes down to."""
    found.state, found.norm_eps = translated.state, translated.norm_eps
    found.architecture = found.architecture or translated.architecture
    found.model_args = translated.model_args | found.model_args
    found.pretrained_cfg = translated.pretrained_cfg | found.pretrained_cfg
    # another library prepares images in its own way; where it does not say how, timm need not know
    found.supposed = {*translated.supposed, *(key for key in PREPROCESSING if key not in translated.pretrained_cfg)}
    found.origins = dict.fromkeys(("name", *found.model_args, *found.pretrained_cfg), translated.origin) | found.origins
    found.taken["layout"] = Fact(translated.origin, "the tensors' names")
    _take_left_out(found, translated.left_out)
    if translated.notes:
        found.taken["supposed"] = Fact("; ".join(translated.notes), "what is usual", guessed=True)


def _is_network(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a network of timm."""
    return _is_of_a_family(state) or bool(indexed(state)[1])


def _is_of_a_family(state: Mapping[str, Tensor]) -> bool:
    """Whether a family knows the names; all of them under one first part are still in a wrapper."""
    return len({name.partition(".")[0] for name in state}) > 1 and any(
        family.recognises(state) for family in FAMILIES.values()
    )


def _is_foreign(config: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of another library."""
    return layout_of(state, config) is not None
