"""What was taken of a network, each with what tells it: the file, its shapes, an option, or timm's network."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from torch import nn

from prune_realloc.checkpoints.found import Checkpoint
from prune_realloc.checkpoints.recognise import Recognised
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.core.taken import Fact, Taken, fact_name, plain_taken
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
    source_args = found.model_args.get("source_args", {})
    source = found.model_args.get("source", architecture.name)

    def of(field: str, value: Any) -> Fact:
        if field in given:
            return Fact(value, "--model-arg")
        if field in found.origins:
            return Fact(value, found.origins[field], guessed=field in found.supposed)
        if field in source_args:
            return Fact(value, found.origins["source_args"])
        if field in shapes:
            return Fact(value, "shapes")
        return Fact(value, f"timm's {source}", architecture.guessed or field in found.supposed)

    name = Fact(architecture.name, architecture.origin, architecture.guessed)
    net.taken = found.taken | {"architecture": name} | _measured(net, of)
    return net


def note_size(net: Any) -> None:
    """The input size that was asked for, in a network that was brought to it."""
    if hasattr(net, "taken"):
        net.taken |= {"input size": Fact(list(input_shape(net)), "--img-size")}


def facts_of_given(net: Any) -> dict[str, Fact]:
    """The facts of a network as it was opened, or of one that timm or the user has made."""
    config = getattr(net, "pretrained_cfg", None) or {}
    known: Taken = getattr(net, "taken", {})
    origin = f"timm's {net.origin['source']}" if known else "the network given"
    if "architecture" in known:
        return dict(known)
    name = Fact(config.get("architecture") or type(net).__name__, origin)
    return dict(known) | {"architecture": name} | _measured(net, lambda _, value: Fact(value, origin))


def _measured(net: Any, of: Callable[[str, Any], Fact]) -> dict[str, Fact]:
    """What a network is, whoever tells it.

    Args:
        of: an argument or field, and its value -> the fact.
    """
    config = getattr(net, "pretrained_cfg", None) or {}
    found = {"heads": of("num_heads", heads)} if (heads := _heads(net)) else {}
    with suppress(InputError):  # one of the user's own does not tell it, its batches do
        found["input size"] = of("img_size", list(input_shape(net)))
    if isinstance(pooling := getattr(net, "global_pool", None), str):
        found["pooling"] = of("global_pool", pooling or "none")
    for field in PREPROCESSING:
        if config.get(field) is not None:
            found[fact_name(field)] = of(field, _plain(config[field]))
    if classes := count_classes(net):
        found["classes"] = of("num_classes", classes)
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
