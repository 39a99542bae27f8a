"""What was taken of a network, each with what tells it: the file, its shapes, an option, or timm's network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from prune_realloc.checkpoints.found import Checkpoint
from prune_realloc.checkpoints.recognise import Recognised
from prune_realloc.core.taken import Fact, Taken, plain_taken
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes


def with_facts(
    net: Any, found: Checkpoint, architecture: Recognised, given: Collection[str], shapes: Collection[str]
) -> nn.Module:
    """Note what was taken of a checkpoint and where from, as `net.taken`.

    Args:
        given: arguments that the user states.
        shapes: arguments that the tensors' shapes tell.
    """
    name = architecture.name

    def of(field: str, value: Any, option: str = "--model-arg") -> Fact:
        if field in given:
            return Fact(value, option)
        if field in found.origins:
            return Fact(value, found.origins[field])
        if field in shapes:
            return Fact(value, "shapes")
        return Fact(value, f"timm's {name}", architecture.guessed)

    taken = dict(found.taken)
    taken["architecture"] = Fact(name, architecture.origin, architecture.guessed)
    if heads := _heads(net):
        taken["heads"] = of("num_heads", heads)
    taken["input size"] = of("img_size", list(input_shape(net)))
    if isinstance(pooling := getattr(net, "global_pool", None), str):
        taken["pooling"] = of("global_pool", pooling or "none")
    for field in ("mean", "std", "interpolation", "crop_pct"):
        taken[field.replace("crop_pct", "crop")] = of(field, _plain(net.pretrained_cfg.get(field)))
    if classes := count_classes(net):
        taken["classes"] = of("num_classes", classes)
    net.taken = taken
    return net


def facts_of_given(net: Any) -> dict[str, Fact]:
    """The facts of a network as it was opened, or of one that was handed over."""
    known: Mapping[str, Fact] | None = getattr(net, "taken", None)
    if known is not None:
        return dict(known)
    config = getattr(net, "pretrained_cfg", None) or {}
    origin = "the network given"
    found = {"architecture": Fact(config.get("architecture") or type(net).__name__, origin)}
    if heads := _heads(net):
        found["heads"] = Fact(heads, origin)
    found |= {field: Fact(_plain(config[field]), origin) for field in ("mean", "std") if config.get(field)}
    return found


def plain_facts(net: nn.Module, images: Taken | None = None) -> dict[str, dict[str, Any]]:
    """All facts of a run, ready for JSON: of the network, and of the images where there are some."""
    return plain_taken(facts_of_given(net) | dict(images or {}))


def _heads(net: nn.Module) -> Any:
    """Heads of every attention; one number where they are all alike."""
    heads = [module.num_heads for module in net.modules() if isinstance(getattr(module, "num_heads", None), int)]
    return heads[0] if len({*heads}) == 1 else heads


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
