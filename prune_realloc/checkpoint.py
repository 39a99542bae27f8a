"""From any ViT checkpoint to a timm model. No pickle is ever executed."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.models import is_model
from torch import Tensor, nn

from prune_realloc.analysis import make_folder, write_files
from prune_realloc.architectures import PRUNED
from prune_realloc.errors import InputError, first_line
from prune_realloc.families import FAMILIES, family_of
from prune_realloc.pruned import build_pruned
from prune_realloc.session import input_shape
from prune_realloc.sites import find_sites, widths

DEMO = Path(__file__).parent / "assets" / "demo_vit"
_PREFIXES = ("module.", "_orig_mod.", "model.")
_WEIGHT_KEYS = ("state_dict", "model", "model_state_dict")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema")
FORMAT_VERSION = 1
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a folder that timm writes has its weights."""
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
_SHAPE_CONFIG = (*PREPROCESSING, "fixed_input_size", "pool_size", "first_conv", "classifier")
"""What of timm's pretrained_cfg is true of any weights of the network."""
_KEPT_CONFIG = (*_SHAPE_CONFIG, "license", "label_names", "label_descriptions", "tag")
"""And of those that were made of the source's: cut, or trained further."""


@dataclass
class _Checkpoint:
    """A file's content, before the architecture is known."""

    state: dict[str, Tensor]
    architecture: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)


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
        net = _create_by_name(str(model), pretrained, extra)
    else:
        if pretrained:
            raise InputError("pretrained: published weights and --ckpt exclude each other; leave one out")
        net = _build(_read(Path(ckpt), ema), Path(ckpt), model, extra, img_size)
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
    found = _read_config(path)
    try:
        net: Any = timm.create_model(f"local-dir:{path}", pretrained=False, **extra)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise InputError(f"source {str(path)!r}: {found.architecture} cannot be built with {found.model_args | extra} "
                         f"({first_line(error)})") from error  # fmt: skip
    for family in FAMILIES.values():
        net = family.adopt(net)
    chans, *size = input_shape(net)  # timm takes both from pretrained_cfg where there are no arguments
    fixed = {"img_size": size} if found.pretrained_cfg.get("fixed_input_size") else {}
    args = {"in_chans": chans, "num_classes": int(net.num_classes)} | fixed | found.model_args | extra
    return _with_origin(net, str(found.architecture), args)


def load_pruned(folder: str | Path) -> nn.Module:
    """The network that `save_pruned` wrote, in evaluation mode; the source is not needed.

    Raises:
        InputError: the folder is missing, damaged, or holds another kind of network.
    """
    found = _read(Path(folder), ema=False)
    if found.architecture != PRUNED:
        raise InputError(f"{str(folder)!r} is no pruned network (architecture {found.architecture}); use load_model")
    return load_model(ckpt=folder)


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
    write_files(folder, {**(more or {}), "model.safetensors": weights_file(net), "config.json": config})


def describe(net: Any, architecture: str, model_args: Mapping[str, Any], own_weights: bool = False,
             class_names: Sequence[str] = ()) -> bytes:  # fmt: skip
    """The `config.json` of a network, from what builds it.

    Args:
        own_weights: they are not made of those that `pretrained_cfg` speaks of.
        class_names: in the order of the labels, where they are known.
    """
    config = getattr(net, "pretrained_cfg", None) or {}
    kept = {key: config[key] for key in (_SHAPE_CONFIG if own_weights else _KEPT_CONFIG) if config.get(key) is not None}
    return config_file(
        architecture, model_args, num_classes=int(net.num_classes), num_features=int(net.num_features),
        input_size=input_shape(net), pretrained_cfg=kept | ({"label_names": list(class_names)} if class_names else {}),
    )  # fmt: skip


def config_file(architecture: str, model_args: Mapping[str, Any], *, num_classes: int, num_features: int,
                input_size: Sequence[int], pretrained_cfg: Mapping[str, Any],
                more: Mapping[str, Any] | None = None) -> bytes:  # fmt: skip
    """The content of the `config.json` that timm's `local-dir:` reads.

    Args:
        architecture, model_args: timm's name of the network, and the arguments that build it.
        input_size: (C, H, W).
        pretrained_cfg: preprocessing, and what else is true of the network.
        more: fields of our own, which timm leaves alone.
    """
    content = {
        "architecture": architecture, "num_classes": num_classes, "num_features": num_features,
        "format_version": FORMAT_VERSION, "model_args": model_args,
        "pretrained_cfg": {**pretrained_cfg, "input_size": list(input_size), "num_classes": num_classes},
    }  # fmt: skip
    return (json.dumps(content | dict(more or {}), indent=1) + "\n").encode()


def weights_file(net: nn.Module) -> bytes:
    """The content of a `model.safetensors`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    return safetensors.torch.save(state, metadata={"format": "pt"})


def check_rebuild(net: Any) -> dict[str, Any]:
    """The arguments from which `build_pruned` builds a network of these shapes.

    Raises:
        InputError: it cannot; the network was made by hand.
    """
    state, family = net.state_dict(), family_of(net)
    if not family.describe(net).branches:
        raise InputError(f"model {type(net).__name__} cannot be cut, so it is no pruned network; write it with "
                         "timm.models.save_for_hf")  # fmt: skip
    config = getattr(net, "pretrained_cfg", None) or {}
    origin = getattr(net, "origin", None) or {
        "source": config.get("architecture"), "source_args": dict(getattr(net, "_model_args", {}))
    }  # fmt: skip
    size = family.example_input(net)[2:]
    args = {
        "source": origin["source"],
        "source_args": origin["source_args"] | family.inferred_args(state, size) | {"img_size": list(size)},
        "widths": widths(find_sites(net)),
    }
    _check_builds(net, args["source"], args["source_args"], lambda: build_pruned(**args))
    return args


def builder(net: Any) -> tuple[str, dict[str, Any]]:
    """timm's name and the arguments that build a network of the shapes of `net`, which `load_model` made.

    Raises:
        InputError: none do.
    """
    if net.pretrained_cfg.get("architecture") == PRUNED:
        return PRUNED, check_rebuild(net)
    name, args = net.origin["source"], net.origin["source_args"]
    _check_builds(net, name, args, lambda: timm.create_model(name, pretrained=False, **args))
    return name, args


def _check_builds(net: nn.Module, name: str, args: Mapping[str, Any], build: Callable[[], nn.Module]) -> None:
    try:
        with torch.device("meta"):
            again = build()
    except Exception as error:  # timm's constructors raise many kinds
        raise InputError(f"model {name!r} cannot be rebuilt with {args} ({first_line(error)}); load it with "
                         "prune_realloc.load_model") from error  # fmt: skip
    shapes = [{key: tuple(tensor.shape) for key, tensor in one.state_dict().items()} for one in (net, again)]
    if shapes[0] != shapes[1]:
        raise InputError(f"model {name!r} with {args} has other shapes than this network; load it with "
                         "prune_realloc.load_model")  # fmt: skip


def model_identity(net: nn.Module) -> dict[str, Any]:
    """Architecture and a checksum over names, shapes and values of all weights: equal for equal networks."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    cfg = getattr(net, "pretrained_cfg", None) or {}
    return {"architecture": cfg.get("architecture", type(net).__name__), "weights_sha256": digest.hexdigest()}


# -- reading --------------------------------------------------------------------------------------------------


def _read(path: Path, ema: bool) -> _Checkpoint:
    if not path.exists():
        raise InputError(f"ckpt {str(path)!r} does not exist")
    if path.is_dir():
        return _read_folder(path)
    if path.stat().st_size == 0:
        raise InputError(f"ckpt {str(path)!r} is empty")
    content = _read_tensors(path)
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt {str(path)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    found = _Checkpoint(_strip(_select_weights(content, path, ema)))
    arguments = content.get("args")
    options = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    options = options if isinstance(options, Mapping) else {}
    name = content.get("arch") or options.get("model")
    if isinstance(name, str) and is_model(name.removeprefix("timm/")):
        found.architecture = name.removeprefix("timm/")
    if isinstance(options.get("model_kwargs"), Mapping):
        found.model_args |= dict(options["model_kwargs"])
    found.pretrained_cfg |= {key: options[key] for key in PREPROCESSING if options.get(key) is not None}
    return found


def _read_folder(path: Path) -> _Checkpoint:
    if (path / "last" / "config.json").is_file():
        raise InputError(f"ckpt {str(path)!r} is the folder of a training run; give {path / 'last'} or {path / 'best'}")
    found = _read_config(path)
    weights = next((path / name for name in WEIGHTS_FILES if (path / name).is_file()), None)
    if weights is None:
        raise InputError(f"ckpt {str(path)!r} has a config.json but none of {', '.join(WEIGHTS_FILES)}: its network is "
                         "not trained yet")  # fmt: skip
    found.state = _strip(_select_weights(_read_tensors(weights), weights, ema=False))
    return found


def _read_config(path: Path) -> _Checkpoint:
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"ckpt {str(path)!r} is a folder without config.json; give the weight file instead")
    try:
        content = json.loads(config.read_text())
        name = str(content["architecture"])
        pretrained_cfg = dict(content.get("pretrained_cfg", content))  # timm's older files have one level only
        model_args = dict(content.get("model_args") or {})
        if "num_classes" in content:
            model_args.setdefault("num_classes", int(content["num_classes"]))
        version = content.get("format_version", FORMAT_VERSION)  # timm writes none
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{config} is not a model configuration as timm writes it ({error!r})") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{config}: format_version {version!r}, this program reads {FORMAT_VERSION}")
    return _Checkpoint({}, name, model_args, pretrained_cfg)


def _read_tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"ckpt {str(path)!r} is not a whole safetensors file ({error})") from error
    # an argparse.Namespace is a bag of values (timm and DeiT save their options in one); nothing else is let in
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _unpickling_reason(str(error))
        raise InputError(f"ckpt {str(path)!r} is refused: {reason}; save its state_dict alone, as tensors") from error
    except Exception as error:  # whatever the unpickler stumbles over: the file is no checkpoint
        raise InputError(
            f"ckpt {str(path)!r} cannot be read, it is damaged or no checkpoint ({first_line(error)})"
        ) from error


def _unpickling_reason(message: str) -> str:
    """What torch's long message about a refused pickle comes down to."""
    if found := re.search(
        r"(?:Unsupported global: GLOBAL|Unsupported class|WeightsUnpickler error:.*?GLOBAL) ([\w.]+)", message
    ):
        return f"reading it would execute a pickle that calls {found[1]}"
    if found := re.search(r"Unsupported operand (\d+)", message):
        return f"it is no checkpoint, or a pickle with an operation that is not let in ({found[1]})"
    lines = [line for line in message.splitlines() if "WeightsUnpickler error" in line] or message.splitlines()
    return lines[0].strip() if lines else "it is not a file of tensors"


def _select_weights(content: Mapping[str, Any], path: Path, ema: bool) -> Mapping[str, Any]:
    def first(keys: tuple[str, ...]) -> Mapping[str, Any] | None:
        return next((content[key] for key in keys if isinstance(content.get(key), Mapping) and content[key]), None)

    averaged, plain = first(_EMA_KEYS), first(_WEIGHT_KEYS)
    if ema and averaged is None:
        raise InputError(f"ema: {str(path)!r} holds no averaged weights (looked for {', '.join(_EMA_KEYS)})")
    if ema or (plain is None and averaged is not None):
        return averaged or {}
    return plain if plain is not None else content


def _strip(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors only, without the prefixes that wrappers (DDP, torch.compile, EMA, Lightning) put before every name."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _PREFIXES if tensors and all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


# -- building -------------------------------------------------------------------------------------------------


def _create_by_name(name: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    local = ":" in name
    if not local and not is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise InputError(f"model {name!r} is unknown to timm{hint}")
    try:
        net = timm.create_model(name, pretrained=pretrained or local, **model_args)
    except Exception as error:  # the hub's client raises many kinds; each means that the weights cannot be had
        raise InputError(
            f"model {name!r} cannot be created ({first_line(error)}); with a local file use --ckpt"
        ) from error
    for family in FAMILIES.values():
        net = family.adopt(net)
    return _with_origin(net, name, model_args)


def _build(
    found: _Checkpoint,
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
        return _load_strictly(_other_model(found, path, name, args), found, path)
    args = known.inferred_args(found.state, args.get("img_size", img_size)) | args
    if name is None or name.split(".")[0] in known.ALIASES:
        name = _infer_name(known, found.state, args, path)
    return _load_strictly(_skeleton(name, args, path), found, path)


def _skeleton(name: str, args: Mapping[str, Any], path: Path) -> nn.Module:
    try:
        return _with_origin(timm.create_model(name, pretrained=False, **args), name, args)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ckpt {str(path)!r}: model {name} cannot be built with {dict(args)} ({first_line(error)})"
        ) from error


def _with_origin(net: Any, name: str, args: Mapping[str, Any]) -> nn.Module:
    """Note what the network was built from, so that what is cut from it can be built again."""
    if not hasattr(net, "origin"):  # a pruned network has that of its own source
        known = net.pretrained_cfg["architecture"] if ":" in name else name.split(".")[0]
        net.origin = {"source": known, "source_args": dict(args)}
    return net


def _other_model(found: _Checkpoint, path: Path, name: str | None, args: dict[str, Any]) -> nn.Module:
    """A network of no family of ours: named by the user or the file, or MIT's EfficientViT."""
    if name is not None:
        return _skeleton(name, args, path)
    for candidate in timm.list_models("efficientvit_[bl]*"):
        with torch.device("meta"):
            net = timm.create_model(candidate)
        if {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in found.state.items()}:
            raise InputError(
                f"ckpt {str(path)!r} is {candidate} (MIT's EfficientViT), whose sites are not supported yet"
            )
    first = ", ".join(list(found.state)[:3])
    raise InputError(f"ckpt {str(path)!r}: tensors {first}, ... are of no known layout; name it with --model")


def _infer_name(family: Any, state: dict[str, Tensor], args: dict[str, Any], path: Path) -> str:
    """The one timm name that fits the tensors, with the file's name as tie-breaker."""
    fitting: list[str] = []
    native = family.candidates(state)
    for name in native:
        with torch.device("meta"):
            net = _skeleton(name, args, path)
        try:
            renamed = family.to_timm_keys(dict(state), net)
        except RuntimeError:
            continue  # its token layout is another, so the position embedding cannot be read
        if {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in renamed.items()}:
            fitting.append(name)
    if not fitting:
        first, tensor = next(iter(state.items()))
        raise InputError(
            f"ckpt {str(path)!r}: no timm model has its shape ({first} {tuple(tensor.shape)}, ...); "
            "name the nearest with --model and its differences with --model-arg, such as num_heads=6"
        )
    stem = path.name.lower()
    named = [name for name in fitting if stem.startswith(name)]
    if named:
        return max(named, key=len)
    words = set(re.split(r"[^a-z0-9]+", stem))
    kin = [name for name in fitting if name.split("_")[0] in words] or fitting
    size = args.get("img_size")
    kin = [name for name in kin if native[name] == ((size, size) if isinstance(size, int) else size)] or kin
    if len(kin) == 1:
        return kin[0]
    raise InputError(f"ckpt {str(path)!r} fits {len(kin)} timm models: {', '.join(kin)}; choose one with --model")


def _load_strictly(net: Any, found: _Checkpoint, path: Path) -> nn.Module:
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
        parts = [f"{what} {keys[0]} ({len(keys)} in all)" for what, keys in
                 (("without", missing), ("with unknown", surplus)) if keys]  # fmt: skip
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
