"""A network -> a folder that timm's `local-dir:` loads: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from prune_realloc.checkpoints.allowed import require_architecture_args
from prune_realloc.checkpoints.folders import FORMAT_VERSION
from prune_realloc.checkpoints.layouts.translated import norm_eps_of
from prune_realloc.checkpoints.pruned import build_pruned
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.files import CHECKSUMS, checksums, make_folder, write_files
from prune_realloc.core.names import PREPROCESSING, PRUNED, RECIPE_FILE, RESULT_FILE, UNITS_FILE, WEIGHTS_FILE
from prune_realloc.families import as_cut, family_of, traced
from prune_realloc.families.base import Family, UnlikeBlocks
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.cut import widths_left
from prune_realloc.pruning.sites import find_sites, widths

_SHAPE_CONFIG = (*PREPROCESSING, "fixed_input_size", "pool_size", "first_conv", "classifier")
"""What of timm's pretrained_cfg is true of any weights of the network."""
_KEPT_CONFIG = (*_SHAPE_CONFIG, "license", "label_names", "label_descriptions")
"""What of timm's pretrained_cfg stays true of weights that were made of the source's: cut, or trained further. The tag
does not: it names published weights, and these are others."""
_LICENSE_NOTE = "license: that of the weights from which these were made"
"""In `notes`, which timm reads and does nothing with."""


def save_pruned(net: Any, folder: str | Path, more: Mapping[str, bytes] | None = None) -> None:
    """Write a network, cut or not, as a folder that `timm.create_model("local-dir:FOLDER")` loads.

    Args:
        net: of a supported family, loaded here or created by timm.
        more: files to write beside it, name -> content.

    Raises:
        InputError: the folder cannot be written, or the network cannot be rebuilt from its name and widths.
    """
    config = describe(net, PRUNED, check_rebuild(net))
    folder = Path(folder)
    make_folder(folder)
    others = {RECIPE_FILE, RESULT_FILE, UNITS_FILE} - {*(more or {})}  # of a network that lay here before
    write_files(folder, network_files(config, weights_file(net), more), gone=sorted(others))


def save_weights(net: nn.Module, folder: str | Path, more: Mapping[str, bytes] | None = None) -> None:
    """Write the weights of a network that its maker alone can build: `model.safetensors`, and no `config.json`.

    Args:
        more: files to write before it, name -> content.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    files = {**(more or {}), WEIGHTS_FILE: weights_file(net)}
    write_files(folder, files, gone=["config.json"])  # it would speak of another network


def network_files(config: bytes, weights: bytes | None, more: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The set of files of a network's folder, in the order in which they are written: `config.json` ends it.

    Args:
        config: what `describe` or `config_file` made; it gets the checksum of the weights, which timm leaves alone.
        weights: what `weights_file` made; None: the network is not trained yet.
        more: files beside them, name -> content.
    """
    if weights is None:
        return {**(more or {}), "config.json": config}
    named = json.loads(config) | {CHECKSUMS: checksums({WEIGHTS_FILE: weights})}
    return {**(more or {}), WEIGHTS_FILE: weights, "config.json": _as_json(named)}


def describe(
    net: Any,
    architecture: str,
    model_args: Mapping[str, Any],
    own_weights: bool = False,
    class_names: Sequence[str] = (),
) -> bytes:
    """The `config.json` of a network, from what builds it.

    Args:
        net: the network, for its sizes and its preprocessing.
        architecture, model_args: timm's name of the network, and the arguments that build it.
        own_weights: the weights are not made of those that `pretrained_cfg` speaks of.
        class_names: names of the classes in the order of the labels, where they are known.
    """
    config = getattr(net, "pretrained_cfg", None) or {}
    kept = {key: config[key] for key in (_SHAPE_CONFIG if own_weights else _KEPT_CONFIG) if config.get(key) is not None}
    if "license" in kept:
        kept["notes"] = [_LICENSE_NOTE]
    return config_file(
        architecture,
        model_args,
        num_classes=int(net.num_classes),
        num_features=int(net.num_features),
        input_size=input_shape(net),
        pretrained_cfg=kept | ({"label_names": list(class_names)} if class_names else {}),
    )


def config_file(
    architecture: str,
    model_args: Mapping[str, Any],
    *,
    num_classes: int,
    num_features: int,
    input_size: Sequence[int],
    pretrained_cfg: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """The content of the `config.json` that timm's `local-dir:` reads.

    Args:
        architecture, model_args: timm's name of the network, and the arguments that build it.
        input_size: (C, H, W).
        pretrained_cfg: preprocessing, and what else is true of the network.
        more: fields of our own, which timm leaves alone.
    """
    content = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": num_features,
        "format_version": FORMAT_VERSION,
        "model_args": model_args,
        "pretrained_cfg": {**pretrained_cfg, "input_size": list(input_size), "num_classes": num_classes},
    }
    return _as_json(content | dict(more or {}))


def _as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def weights_file(net: nn.Module) -> bytes:
    """The content of a `model.safetensors`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    state = {  # a file holds tensors that share their numbers once for each
        name: tensor.clone() if places[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in state.items()
    }
    return safetensors.torch.save(state, metadata={"format": "pt"})


def check_rebuild(net: Any) -> dict[str, Any]:
    """The arguments from which `build_pruned` builds a network of these shapes.

    Raises:
        InputError: it cannot; the network was made by hand, or with arguments that no file may hold.
    """
    state, family = net.state_dict(), family_of(net)
    if family is not traced and not family.describe(net).branches:
        raise InputError(
            f"model {type(net).__name__} cannot be cut, so it is no pruned network; write it with "
            "timm.models.save_for_hf"
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
    # what follows from a run needs the numbers that a network is built with, such as tables of positions
    device = "cpu" if family is traced else "meta"
    if family is traced:  # what was cut may have sites of other names than its source, whose names are in the file
        whole = _built(source, given, lambda: as_cut(timm.create_model(source, pretrained=False, **given)), device)
        args["widths"] = widths_left(net, whole)
    else:
        args["widths"] = widths(find_sites(net))
    again = _check_builds(net, source, given, lambda: build_pruned(**args), device)
    epsilon = norm_eps_of(net)
    return args if epsilon in (None, norm_eps_of(again)) else args | {"norm_eps": epsilon}


def _size_args(net: Any, family: Family, size: Sequence[int]) -> dict[str, Any]:
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
    _check_builds(net, name, args, lambda: timm.create_model(name, pretrained=False, **args))
    return name, args


def _check_builds(
    net: nn.Module, name: str, args: Mapping[str, Any], build: Callable[[], nn.Module], device: str = "meta"
) -> nn.Module:
    """The network that `build` builds; raises InputError where it is not of the shapes of `net`."""
    again = _built(name, args, build, device)
    shapes = [{key: tuple(tensor.shape) for key, tensor in one.state_dict().items()} for one in (net, again)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"model {name!r} with {args} has other shapes than this network; load it with prune_realloc.load_model"
        )
    return again


def _built(name: str, args: Mapping[str, Any], build: Callable[[], nn.Module], device: str) -> nn.Module:
    """What `build` builds, on "meta" without memory; raises InputError where it cannot."""
    try:
        with torch.device(device):
            return build()
    except Exception as error:  # timm's constructors raise many kinds
        raise InputError(
            f"model {name!r} cannot be rebuilt with {args} ({first_line(error)}); load it with prune_realloc.load_model"
        ) from error
