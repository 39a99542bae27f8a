"""From any ViT checkpoint to a timm model. No pickle is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import nn

from prune_realloc.checkpoints.create import create_by_name, create_skeleton, with_origin
from prune_realloc.checkpoints.read import Checkpoint, read_checkpoint, read_config
from prune_realloc.checkpoints.recognise import create_unlisted, infer_name
from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.names import PRUNED
from prune_realloc.families import FAMILIES
from prune_realloc.families.inputs import input_shape

DEMO = Path(__file__).parents[1] / "assets" / "demo_vit"


def load_model(
    model: str | None = None,
    *,
    ckpt: str | Path | None = None,
    pretrained: bool = False,
    ema: bool = False,
    img_size: int | tuple[int, int] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A timm model in evaluation mode, float32, on the CPU. With neither `model` nor `ckpt`: the shipped one.

    Args:
        model: timm name, or `hf-hub:...`, `local-dir:...`. With `ckpt`, the architecture of the checkpoint; may
            be left out where the file names it or its tensors' shapes tell it.
        ckpt: a `.pth`, `.pt`, `.bin` or `.safetensors` file, or a folder with `config.json` as timm writes it.
        pretrained: fetch the published weights of `model` (needs the network or a local cache).
        ema: take the averaged weights of a training checkpoint.
        img_size: run at another input size; the position embedding is resized.
        model_args: more arguments for `timm.create_model`, such as `{"num_heads": 6}`.

    Raises:
        InputError: the file is missing, damaged, needs a pickle to be executed, or does not fit the architecture.
    """
    extra = dict(model_args or {})
    if model is None and ckpt is None:
        ckpt = DEMO
    elif ckpt is None and str(model).startswith("local-dir:"):
        model, ckpt, pretrained = None, str(model).removeprefix("local-dir:"), False
    if ckpt is None:
        net = create_by_name(str(model), pretrained, extra)
    else:
        if pretrained:
            raise InputError("pretrained: published weights and --ckpt exclude each other; leave one out")
        net = _build(read_checkpoint(Path(ckpt), ema), Path(ckpt), model, extra, img_size)
    if img_size is not None:
        _resize_(net, img_size)
    _check_finite(net)
    return net.float().eval()


def new_model(folder: str | Path, *, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that a folder's `config.json` describes, with new weights, drawn by torch's generator.

    Raises:
        InputError: the file is damaged, or its network cannot be built with `model_args`.
    """
    path, extra = Path(folder), dict(model_args or {})
    found = read_config(path)
    try:
        net: Any = timm.create_model(f"local-dir:{path}", pretrained=False, **extra)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise InputError(
            f"source {str(path)!r}: {found.architecture} cannot be built with {found.model_args | extra} "
            f"({first_line(error)})"
        ) from error
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
    found = read_checkpoint(Path(folder), ema=False)
    if found.architecture != PRUNED:
        raise InputError(f"{str(folder)!r} is no pruned network (architecture {found.architecture}); use load_model")
    return load_model(ckpt=folder)


def _build(
    found: Checkpoint,
    path: Path,
    model: str | None,
    extra: dict[str, Any],
    img_size: int | tuple[int, int] | None,
) -> nn.Module:
    if not found.state:
        raise InputError(f"ckpt {str(path)!r} holds no tensors")
    if any(".attention.attention.query" in name for name in found.state):
        raise InputError(f"ckpt {str(path)!r} is in the layout of Hugging Face transformers; give timm's weights")
    known = next((family for family in FAMILIES.values() if family.recognises(found.state)), None)
    name = model or found.architecture
    if name is not None and not is_model(name.split(".")[0]):
        raise InputError(f"model {name!r} is unknown to timm; see timm.list_models()")
    args = found.model_args | extra
    if known is None:
        return _load_strictly(create_unlisted(found, path, name, args), found, path)
    args = known.inferred_args(found.state, args.get("img_size", img_size)) | args
    if name is None or name.split(".")[0] in known.ALIASES:
        name = infer_name(known, found.state, args, path)
    return _load_strictly(create_skeleton(name, args, path), found, path)


def _load_strictly(net: Any, found: Checkpoint, path: Path) -> nn.Module:
    name = net.pretrained_cfg.get("architecture", type(net).__name__)
    state = found.state
    for family in FAMILIES.values():
        if family.owns(net):
            try:
                state = family.to_timm_keys(dict(state), net)
            except RuntimeError as error:
                raise InputError(
                    f"ckpt {str(path)!r} does not fit model {name}: its position embedding cannot be resized "
                    f"({str(error).splitlines()[0]})"
                ) from error
    want, have = (
        {k: tuple(v.shape) for k, v in net.state_dict().items()},
        {k: tuple(v.shape) for k, v in state.items()},
    )
    if wrong := [k for k in want if k in have and want[k] != have[k]]:
        raise InputError(
            f"ckpt {str(path)!r} does not fit model {name}: {wrong[0]} is {have[wrong[0]]}, "
            f"the model has {want[wrong[0]]} ({len(wrong)} differ); choose another with --model or --model-arg"
        )
    missing, surplus = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    if missing or surplus:
        parts = [
            f"{what} {keys[0]} ({len(keys)} in all)"
            for what, keys in (("without", missing), ("with unknown", surplus))
            if keys
        ]
        raise InputError(f"ckpt {str(path)!r} does not fit model {name}: it comes {' and '.join(parts)}")
    net.load_state_dict(state)
    if found.pretrained_cfg:
        net.pretrained_cfg = dict(net.pretrained_cfg) | found.pretrained_cfg | {"architecture": name}
    return net


def _resize_(net: Any, img_size: int | tuple[int, int]) -> None:
    if not hasattr(net, "set_input_size"):
        raise InputError(f"img_size: {type(net).__name__} cannot change its input size")
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    patch = getattr(net.patch_embed, "patch_size", (1, 1))  # a stem of convolutions takes any size
    if any(s < 1 or s % p for s, p in zip(size, patch, strict=True)):
        raise InputError(f"img_size {img_size} is not a multiple of the patch size {patch[0]}")
    net.set_input_size(img_size=size)


def _check_finite(net: nn.Module) -> None:
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"weights: {name} has NaN or infinite entries; the checkpoint is broken")
