"""A network -> a folder that timm's `local-dir:` loads: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from prune_realloc.checkpoints.folders import FORMAT_VERSION
from prune_realloc.checkpoints.rebuild import check_rebuild
from prune_realloc.core.files import CHECKSUMS, checksums, json_file, make_folder, write_files
from prune_realloc.core.names import PREPROCESSING, PRUNED, RECIPE_FILE, RESULT_FILE, UNITS_FILE, WEIGHTS_FILE
from prune_realloc.families.inputs import input_shape

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
    return {**(more or {}), WEIGHTS_FILE: weights, "config.json": json_file(named)}


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
    return json_file(content | dict(more or {}))


def weights_file(net: nn.Module) -> bytes:
    """The content of a `model.safetensors`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    state = {  # a file holds tensors that share their numbers once for each
        name: tensor.clone() if places[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in state.items()
    }
    return safetensors.torch.save(state, metadata={"format": "pt"})
