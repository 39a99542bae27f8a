"""What builds a network of the shapes and the forward pass of one at hand: timm's name, and arguments for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn

from prune_realloc.checkpoints.allowed import require_architecture_args
from prune_realloc.checkpoints.layouts.translated import norm_eps_of, set_norm_eps_
from prune_realloc.checkpoints.pruned import build_pruned, build_whole
from prune_realloc.checkpoints.same_pass import same_pass
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.names import PRUNED
from prune_realloc.families import family_of, traced
from prune_realloc.families.base import CuttableFamily, UnlikeBlocks
from prune_realloc.pruning.cut import kept_left, widths_left
from prune_realloc.pruning.sites import find_sites, widths


def is_of_timm(net: Any) -> bool:
    """Does it tell by which of timm's names it is built? Networks of the user's own do not."""
    return hasattr(net, "origin") or bool((getattr(net, "pretrained_cfg", None) or {}).get("architecture"))


def check_rebuild(net: Any) -> dict[str, Any]:
    """The arguments from which `build_pruned` builds a network of these shapes, and of this forward pass.

    Raises:
        InputError: it cannot; the network was made by hand, or with arguments that no file may hold.
    """
    state, family = net.state_dict(), family_of(net)
    if not is_of_timm(net):
        raise InputError(
            f"model {type(net).__name__} is not built by timm, so that no file can say how; keep its weights with "
            "safetensors.torch.save_model, and see docs/own-network.md for how to build it again"
        )
    config = getattr(net, "pretrained_cfg", None) or {}
    origin = getattr(net, "origin", None) or {
        "source": config.get("architecture"),
        "source_args": dict(getattr(net, "_model_args", {})),
    }
    size = family.example_input(net)[2:]
    source: str = origin["source"]
    given = origin["source_args"] | family.inferred_args(state, size) | _size_args(net, family, size)
    args: dict[str, Any] = {"source": source, "source_args": given}
    if isinstance(family, UnlikeBlocks):
        more, args["blocks"] = family.places(net)
        given |= more
    require_architecture_args(given, "model_args")
    if family is not traced:
        args["widths"] = widths(find_sites(net))
        return _with_norm_eps(net, args, _check_builds(net, source, given, lambda: build_pruned(**args), "meta"))
    # what was cut may have sites of other names than its source, whose names are in the file
    whole = _built(net, source, given, lambda: build_whole(source, given), "cpu")
    args["widths"] = widths_left(net, whole)
    try:
        return _check_pass(net, args)
    except InputError:  # the first units of a site lie in other parts of a tensor than those that stayed
        return _check_pass(net, args | {"kept": kept_left(net, whole)})


def _size_args(net: Any, family: CuttableFamily, size: Sequence[int]) -> dict[str, Any]:
    """The argument for the input size; not every network that is traced takes one."""
    native = (getattr(net, "pretrained_cfg", None) or {}).get("input_size", ())
    return {} if family is traced and tuple(native[1:]) == tuple(size) else {"img_size": list(size)}


def builder(net: Any) -> tuple[str, dict[str, Any]]:
    """timm's name and the arguments that build a network of the shapes of `net`, which `load_model` made.

    Raises:
        InputError: none do, or only arguments that no file may hold.
    """
    if net.pretrained_cfg.get("architecture") == PRUNED:
        return PRUNED, check_rebuild(net)
    name, args = net.origin["source"], net.origin["source_args"]
    require_architecture_args(args, "model_args")
    _check_builds(net, name, args, lambda: timm.create_model(name, pretrained=False, **args), "meta")
    return name, args


def _check_pass(net: nn.Module, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a network that is traced; raises InputError where they do not build its forward pass."""
    source, given = args["source"], args["source_args"]
    # what follows from a run needs the numbers that a network is built with, such as tables of positions
    again = _check_builds(net, source, given, lambda: build_pruned(**args), "cpu")
    args = _with_norm_eps(net, args, again)
    if not same_pass(net, again):
        raise InputError(f"model {source!r} with {given}, cut alike, computes something else; {_remedy(net)}")
    return args


def _with_norm_eps(net: nn.Module, args: dict[str, Any], again: nn.Module) -> dict[str, Any]:
    """The arguments, with the epsilon of the layer norms where `again`, which they build, has another."""
    epsilon = norm_eps_of(net)
    if epsilon is None or epsilon == norm_eps_of(again):
        return args
    set_norm_eps_(again, epsilon)
    return args | {"norm_eps": epsilon}


def _check_builds(
    net: nn.Module, name: str, args: Mapping[str, Any], build: Callable[[], nn.Module], device: str
) -> nn.Module:
    """The network that `build` builds; raises InputError where it is not of the shapes of `net`."""
    again = _built(net, name, args, build, device)
    shapes = [{key: tuple(tensor.shape) for key, tensor in one.state_dict().items()} for one in (net, again)]
    if shapes[0] != shapes[1]:
        raise InputError(f"model {name!r} with {args} has other shapes than this network; {_remedy(net)}")
    return again


def _built(
    net: nn.Module, name: str, args: Mapping[str, Any], build: Callable[[], nn.Module], device: str
) -> nn.Module:
    """What `build` builds, on "meta" without memory; raises InputError where it cannot."""
    try:
        # the first weights of a network are drawn; the caller's generator stays where it is
        with torch.device(device), torch.random.fork_rng(devices=[]):
            return build()
    except Exception as error:  # timm's constructors raise many kinds
        why = first_line(error)
        raise InputError(f"model {name!r} cannot be rebuilt with {args} ({why}); {_remedy(net)}") from error


def _remedy(net: nn.Module) -> str:
    """What helps: whoever did not open a network here may have built it with arguments that it does not tell."""
    if hasattr(net, "origin"):
        return "keep its weights alone, with safetensors.torch.save_model"
    return "load it with prune_realloc.load_model, or keep its weights alone, with safetensors.torch.save_model"
