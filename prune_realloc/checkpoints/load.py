"""From any ViT checkpoint, or a name, to a timm model with its weights. No pickle is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model
from torch import nn

from prune_realloc.checkpoints.allowed import require_architecture_args
from prune_realloc.checkpoints.create import create_described, create_published, create_skeleton, resize_, with_origin
from prune_realloc.checkpoints.facts import note_size, with_facts
from prune_realloc.checkpoints.fill import fill_, forget_published_, require_finite
from prune_realloc.checkpoints.folders import read_config
from prune_realloc.checkpoints.found import Checkpoint
from prune_realloc.checkpoints.layouts.translated import set_norm_eps_
from prune_realloc.checkpoints.read import read_checkpoint
from prune_realloc.checkpoints.recognise import Recognised, recognise, recognise_unlisted
from prune_realloc.checkpoints.unread import fitting_hints, sizes_of
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PRUNED
from prune_realloc.families import FAMILIES, cuttable_family_of_architecture, may_be_of, traced
from prune_realloc.families.base import Family
from prune_realloc.families.inputs import input_shape
from prune_realloc.runtime.networks import count_classes

DEMO = Path(__file__).parents[1] / "assets" / "demo_vit"
"""The folder of the shipped ViT."""
_FOLDER = "local-dir:"
"""How timm names a folder; it is opened like any checkpoint."""


def load_model(
    model: str | None = None,
    *,
    ckpt: str | Path | None = None,
    pretrained: bool = False,
    ema: bool | None = None,
    img_size: int | tuple[int, int] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A timm model in evaluation mode, float32, on the CPU. With neither `model` nor `ckpt`: the shipped one.

    Its weights are always those of a checkpoint or the published ones; for new weights call `timm.create_model`.

    Args:
        model: timm name, or `hf-hub:...`, `local-dir:...`. With `ckpt`, the architecture of the checkpoint; may
            be left out where the file names it or its tensors' shapes tell it.
        ckpt: a `.pth`, `.pt`, `.bin` or `.safetensors` file, or a folder with `config.json` as timm writes it.
        pretrained: fetch the published weights of `model` (needs the network or a local cache).
        ema: take the averaged weights of a training checkpoint, or the others; None: as the script does that wrote
            it, timm's averaged ones, and `model` of all others.
        img_size: run at another input size; the position embedding is resized.
        model_args: more arguments of the architecture for `timm.create_model`, such as `{"num_heads": 6}`.

    Raises:
        InputError: the file is missing, damaged, needs a pickle to be executed, or does not fit the architecture; or
            nothing gives weights.
    """
    extra = dict(model_args or {})
    require_architecture_args(extra, "model_args", plain=False)
    if model is None and ckpt is None:
        ckpt = DEMO
    elif model is not None and ckpt is None and model.startswith(_FOLDER):
        ckpt, pretrained = model.removeprefix(_FOLDER), False
        model = None
    if ckpt is not None and pretrained:
        raise InputError("pretrained: published weights and --ckpt exclude each other; leave one out")
    # the first weights of a network are drawn; the caller's generator stays where it is
    with torch.random.fork_rng(devices=[]):
        if ckpt is None:
            net = _published(str(model), pretrained, extra)
        else:
            net = _stored(read_checkpoint(Path(ckpt), ema), Path(ckpt), model, extra, img_size)
        if img_size is not None:
            resize_(net, img_size)
            note_size(net)
    return _ready(net)


def new_model(folder: str | Path, *, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that a folder's `config.json` describes, with new weights, drawn by torch's generator.

    Raises:
        InputError: the file is damaged, or its network cannot be built with `model_args`.
    """
    path, extra = Path(folder), dict(model_args or {})
    require_architecture_args(extra, "model_args", plain=False)
    found = read_config(path)
    net: Any = create_described(
        str(found.architecture),
        found.model_args | extra,
        path,
        field="source",
        pretrained_cfg=found.pretrained_cfg,
    )
    for family in FAMILIES.values():
        net = family.adopt(net)
    chans, *size = input_shape(net)  # timm takes both from pretrained_cfg where there are no arguments
    fixed = {"img_size": size} if found.pretrained_cfg.get("fixed_input_size") else {}
    args = {"in_chans": chans, "num_classes": int(net.num_classes)} | fixed | found.model_args | extra
    return with_origin(net, str(found.architecture), args)


def load_pruned(folder: str | Path) -> nn.Module:
    """The network that `save_pruned` wrote, in evaluation mode; the source is not needed.

    Raises:
        InputError: the folder is missing, damaged, or holds another kind of network.
    """
    found = read_checkpoint(Path(folder))
    if found.architecture != PRUNED:
        raise InputError(f"{str(folder)!r} is no pruned network (architecture {found.architecture}); use load_model")
    with torch.random.fork_rng(devices=[]):
        return _ready(_stored(found, Path(folder), None, {}, None))


def _ready(net: nn.Module) -> nn.Module:
    """As it is handed out: in evaluation mode, float32.

    Raises:
        InputError: some of its numbers are not finite.
    """
    require_finite(net)
    return net.float().eval()


def _published(name: str, pretrained: bool, extra: dict[str, Any]) -> nn.Module:
    if not pretrained and ":" not in name and is_model(name.split(".")[0]):
        raise InputError(
            f"model {name!r} comes without weights; give its checkpoint with --ckpt, or fetch the published weights "
            "with --pretrained"
        )
    net: Any = create_published(name, extra)
    known = net.pretrained_cfg.get("num_classes")
    if count_classes(net) not in (0, known):
        raise InputError(
            f"num_classes {count_classes(net)}: the published weights of {name} know {known} classes, so the "
            "classifier would be new; leave num_classes out, or set it to 0"
        )
    return net


def _stored(
    found: Checkpoint,
    path: Path,
    model: str | None,
    extra: dict[str, Any],
    img_size: int | tuple[int, int] | None,
) -> nn.Module:
    name = model or found.architecture
    if name is not None and not is_model(name.split(".")[0]):
        raise InputError(f"model {name!r} is unknown to timm; see timm.list_models()")
    if found.architecture == PRUNED and name != PRUNED:
        raise InputError(
            f"model {name!r}: what lies in {str(path)!r} is pruned, and says itself what it is; leave it out"
        )
    known = _declaring(found, name)
    shapes = {} if known is None else _inferred(known, found, extra, img_size)
    hints = _hints(found, shapes)
    stated = {
        name: value for name, value in found.model_args.items() if name not in found.supposed or name not in hints
    }
    cut = name == PRUNED and "input_size" in found.pretrained_cfg  # timm would give our name three channels
    channels = {"in_chans": found.pretrained_cfg["input_size"][0]} if cut else {}
    args = channels | shapes | hints | stated | extra
    architecture = None
    if name is not None and not (known and name.split(".")[0] in known.ALIASES):
        architecture = Recognised(name, "the name given" if model else found.origins["name"], guessed=False)
    elif known is not None:
        architecture = recognise(known, found.state, args, path)
    if architecture is None:  # of no family, or of another than its names suggest
        shapes, hints, args = {}, {}, found.model_args | extra
        architecture = recognise_unlisted(found.state, args, path)
    if not shapes:  # no family reads them
        hints = fitting_hints(architecture.name, args, found)
        args |= hints
    net = create_skeleton(architecture.name, args, path)
    if not shapes and (told := {name: size for name, size in sizes_of(net, found.state).items() if name not in args}):
        shapes = told
        net = create_skeleton(architecture.name, args | shapes, path)
    if found.norm_eps is not None:
        set_norm_eps_(net, found.norm_eps)
    if "." not in architecture.name:  # a tag would name the weights
        forget_published_(net)
    fill_(net, found, path)
    for name in found.hints.keys() - hints.keys():  # nothing came of it
        found.origins.pop(name, None)
    found.supposed -= hints.keys()
    if img_size is not None and shapes.get("img_size") == img_size:
        found.origins.setdefault("img_size", "--img-size")
    return with_facts(net, found, architecture, given={*extra}, shapes={*shapes})


def _declaring(found: Checkpoint, name: str | None) -> Family | None:
    """The family whose networks have such tensors, unless the network's name says that they only look like those.

    In a network that is traced, a tensor of the same name may be of another stride or another table.
    """
    source = found.model_args.get("source") if name == PRUNED else None
    if isinstance(source, str) and is_model(source) and cuttable_family_of_architecture(source) is traced:
        return None
    known = next((family for family in FAMILIES.values() if family.recognises(found.state)), None)
    return None if known is not None and name is not None and not may_be_of(known, name.split(".")[0]) else known


def _inferred(
    family: Family, found: Checkpoint, extra: Mapping[str, Any], img_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What the shapes tell; where they leave the input size open, what the file states, else what the user asks for."""
    # a pruned network was built for the size of its source
    source_args: Any = found.model_args.get("source_args", {})
    if not isinstance(source_args, Mapping):
        raise InputError(f"model_args.source_args {source_args!r} is no mapping of arguments; mend the config.json")
    stated = found.hints | dict(source_args) | found.model_args | dict(extra)
    return family.inferred_args(found.state, stated.get("img_size", img_size))


def _hints(found: Checkpoint, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of arguments that the shapes do not tell; a rectangle has the patches of a square, too."""
    if not shapes or "num_heads" in shapes:
        return {}
    return {name: value for name, value in found.hints.items() if name not in shapes or name == "img_size"}
