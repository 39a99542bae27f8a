"""A timm name and arguments -> a network that remembers what it was built from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model, load_model_config_from_hf
from torch import nn

from prune_realloc.checkpoints.allowed import require_architecture_args, require_architecture_name
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.taken import Fact
from prune_realloc.families import FAMILIES
from prune_realloc.families.base import Resizing
from prune_realloc.families.inputs import input_shape, state_size_
from prune_realloc.runtime.networks import evaluation_mode


def create_published(name: str, model_args: Mapping[str, Any]) -> nn.Module:
    """timm's network `name`, or `hf-hub:...`, with its published weights, fetched or from the local cache.

    A classifier of another size than the published one has new weights, as timm does it.

    Raises:
        InputError: the name is unknown, the weights cannot be had, or the arguments do not fit.
    """
    require_architecture_args(model_args, "model_args", plain=False)
    if ":" in name:
        _require_plain_hub_config(name)
    net: Any = _adopted(_created(name, True, model_args), name, model_args)
    net.taken = {"weights": Fact(f"published, {name}", "--pretrained" if ":" not in name else "the hub")}
    return net


def create_fresh(
    name: str, *, img_size: int | tuple[int, int] | None = None, model_args: Mapping[str, Any] | None = None
) -> nn.Module:
    """timm's network `name` with new weights, drawn by torch's generator; in evaluation mode, float32, on the CPU.

    For training from scratch, and for times, which do not depend on the values of weights. Whoever scores, cuts or
    exports a network wants `load_model`, which never returns new weights.

    Args:
        name: timm name, without `hf-hub:` or `local-dir:`.
        img_size: take images of another size.
        model_args: more arguments for `timm.create_model`.

    Raises:
        InputError: the name is unknown, or the arguments do not fit.
    """
    if ":" in name:
        raise InputError(f"model {name!r} carries weights; open it with load_model")
    args = dict(model_args or {})
    require_architecture_args(args, "model_args", plain=False)
    net: Any = _adopted(_created(name, False, args), name, args)
    net.taken = {"weights": Fact("new", "no checkpoint")}
    if img_size is not None:
        resize_(net, img_size)
    fresh: nn.Module = net.float().eval()
    return fresh


def create_skeleton(name: str, args: Mapping[str, Any], path: Path) -> nn.Module:
    """The network that a checkpoint describes, before its weights; as `create_described`, and it notes its origin."""
    return with_origin(create_described(name, args, path), name, args)


def create_described(name: str, args: Mapping[str, Any], path: Path, field: str = "ckpt", **config: Any) -> nn.Module:
    """The network that a file describes, before its weights.

    Args:
        path: the file.
        field: the option that gave it, for messages.
        config: `pretrained_cfg`, where the file's own is to stand in for timm's.

    Raises:
        InputError: it cannot be built.
    """
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, **config, **args)
    except Exception as error:  # timm's constructors raise many kinds
        raise InputError(
            f"{field} {str(path)!r}: model {name} cannot be built with {dict(args)} ({first_line(error)})"
        ) from error
    state_size_(net, args)
    return net


def resize_(net: Any, img_size: int | tuple[int, int]) -> None:
    """Let the network take images of another size.

    Raises:
        InputError: it cannot, or not of this one.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if not hasattr(net, "set_input_size"):
        _check_runs_at(net, size)
        state_size_(net, {"img_size": size})
        return
    patch = getattr(net.patch_embed, "patch_size", (1, 1))  # a stem of convolutions takes any size
    if any(s < 1 or s % p for s, p in zip(size, patch, strict=True)):
        raise InputError(f"img_size {img_size} is not a multiple of the patch size {patch[0]}")
    family = next((family for family in FAMILIES.values() if family.owns(net)), None)
    if isinstance(family, Resizing):
        family.resize_(net, size)
    else:
        net.set_input_size(img_size=size)


def _check_runs_at(net: nn.Module, size: Sequence[int]) -> None:
    """Raises InputError where a network that is built for no size in particular does not run at this one."""
    images = torch.zeros((1, input_shape(net)[0], *size)).to(next(net.parameters()))
    try:
        with evaluation_mode(net), torch.no_grad():
            net(images)
    except Exception as error:  # it is the network's own code that runs
        height, width = size
        raise InputError(
            f"img_size: {type(net).__name__} does not run on images of {height} x {width} ({first_line(error)}); where "
            f"it can be built for them, say so: --model-arg img_size={height if height == width else size}"
        ) from error


def replace_head_(net: Any, num_classes: int) -> None:
    """A classifier with new weights, drawn by torch's generator; the network's own class names no longer hold.

    Raises:
        InputError: the network cannot change its classifier.
    """
    if not hasattr(net, "reset_classifier"):
        raise InputError(f"num_classes: {type(net).__name__} cannot change its classifier")
    net.reset_classifier(num_classes)
    net.origin["source_args"]["num_classes"] = num_classes
    stays = {key: value for key, value in net.pretrained_cfg.items() if not key.startswith("label_")}
    net.pretrained_cfg = stays | {"num_classes": num_classes}
    net.taken = getattr(net, "taken", {}) | {"classes": Fact(num_classes, "a new head")}


def with_origin(net: Any, name: str, args: Mapping[str, Any]) -> nn.Module:
    """Note what the network was built from, so that what is cut from it can be built again."""
    if not hasattr(net, "origin"):  # a pruned network has that of its own source
        known = net.pretrained_cfg["architecture"] if ":" in name else name.split(".")[0]
        net.origin = {"source": known, "source_args": dict(args)}
    return net


def _created(name: str, pretrained: bool, args: Mapping[str, Any]) -> nn.Module:
    if ":" not in name and not is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        if Path(name).exists():
            hint = f"; a file or folder is given as ckpt: ckpt={name!r}"
        elif "/" in name:
            hint = ", and there is no such file or folder; look at the path"
        raise InputError(f"model {name!r} is unknown to timm{hint}")
    try:
        with _tensors_only():
            net: nn.Module = timm.create_model(name, pretrained=pretrained, **args)
    except Exception as error:  # the hub's client raises many kinds; each means that the weights cannot be had
        raise InputError(
            f"model {name!r} cannot be created ({first_line(error)}); with a local file use --ckpt"
        ) from error
    state_size_(net, args)
    return net


def _adopted(net: nn.Module, name: str, args: Mapping[str, Any]) -> nn.Module:
    for family in FAMILIES.values():
        net = family.adopt(net)
    return with_origin(net, name, args)


def _require_plain_hub_config(name: str) -> None:
    """The `config.json` on the hub is held to the rule of files."""
    try:
        _, architecture, model_args = load_model_config_from_hf(name.partition(":")[2])
    except Exception as error:  # as in _created
        raise InputError(
            f"model {name!r} cannot be created ({first_line(error)}); with a local file use --ckpt"
        ) from error
    require_architecture_name(architecture, f"{name}: architecture")
    require_architecture_args(model_args or {}, f"{name}: model_args")


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Inside, `torch.load` executes no pickle, whatever timm asks for; older versions ask for whole pickles."""
    flag = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(flag)
    os.environ[flag] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[flag]
        else:
            os.environ[flag] = before
