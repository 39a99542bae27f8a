"""From settings to the command line of timm's own `train.py`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune_realloc.core.names import WEIGHTS_FILE
from prune_realloc.training.config import TrainConfig

Flags = dict[str, Any]
"""Flag of timm's script -> its value, or a list of them; None: it is left out."""

_FOLDER = "local-dir:"
_OWN_FLAGS = {
    "global_pool": "--gp",
    "drop_rate": "--drop",
    "drop_path_rate": "--drop-path",
    "drop_block_rate": "--drop-block",
}
"""Argument of a network -> the flag of timm's script, which hands it over itself."""
_SAID = ("num_classes", "in_chans")
"""Arguments that are always said, by flags of their own."""


def timm_command(
    config: TrainConfig,
    source: str,
    data: str,
    description: Mapping[str, Any],
    *,
    data_dir: str | None,
    split: str,
    eval_split: str,
    model_args: Mapping[str, Any] | None = None,
) -> str:
    """The nearest run of timm's own `train.py`.

    It clips by AGC without the classifier, does not distil, holds no images out, trains on all images of the part, and
    splits `batch_size` over processes itself.

    Args:
        source, data, data_dir, split, eval_split, model_args: as in `training.train`.
        description: the `config.json` of the trained network.
    """
    source = source.removeprefix(_FOLDER)
    flags = _settings(config, description["pretrained_cfg"]) | _network(source, description, model_args or {})
    flags |= _rates(config)
    flags |= {"--data-dir": data} if Path(data).exists() else {"--dataset": data, "--data-dir": data_dir}
    flags |= {"--train-split": split, "--val-split": None if eval_split == "held-out" else eval_split}
    start = "python -c \"import prune_realloc, runpy; runpy.run_path('train.py', run_name='__main__')\""
    words = []
    for flag, value in flags.items():
        if value is not None:
            words += [flag, *(shlex.quote(str(one)) for one in (value if isinstance(value, list) else [value]))]
    return " ".join([start, *words, *_switches(config, source)])


def _settings(config: TrainConfig, shown: Mapping[str, Any]) -> Flags:
    """What has one flag each; `shown` is how the network wants to see images."""
    return {
        "--in-chans": shown["input_size"][0],
        "--input-size": list(shown["input_size"]),
        "--epochs": config.epochs,
        "--batch-size": config.batch_size // config.accumulate,
        "--grad-accum-steps": config.accumulate,
        "--opt": config.opt,
        "--weight-decay": config.weight_decay,
        "--sched": "cosine",
        "--warmup-epochs": config.warmup_epochs,
        "--warmup-lr": config.warmup_lr,
        "--min-lr": config.min_lr,
        "--clip-grad": config.clip_grad or None,
        "--clip-mode": config.clip_mode,
        "--smoothing": config.smoothing,
        "--mixup": config.mixup,
        "--cutmix": config.cutmix,
        "--aa": config.auto_augment,
        "--scale": [config.crop_scale, 1.0],
        "--hflip": config.hflip,
        "--color-jitter": config.color_jitter,
        "--reprob": config.reprob,
        "--remode": "pixel",
        "--train-interpolation": shown.get("interpolation", "bicubic"),
        "--aug-repeats": config.repeated_aug if config.repeated_aug > 1 else None,
        "--seed": config.seed,
        "--workers": config.workers,
        "--model-ema-decay": config.ema or None,
        "--drop": config.drop_rate,
    }


def _network(source: str, description: Mapping[str, Any], model_args: Mapping[str, Any]) -> Flags:
    """How timm finds the network and builds it: in a folder, in a checkpoint, or by name."""
    found: Flags = {"--model": source, "--num-classes": description["num_classes"]}
    if Path(source).is_dir():  # its config.json has the other arguments
        return found | {"--model": f"{_FOLDER}{source}"} | _arguments(model_args)
    if Path(source).exists():
        found |= {"--model": description["architecture"], "--initial-checkpoint": source}
    return found | _arguments(description["model_args"])


def _arguments(given: Mapping[str, Any]) -> Flags:
    """Arguments of a network; timm's script takes those with flags of their own by these alone."""
    own = {flag: given[name] for name, flag in _OWN_FLAGS.items() if given.get(name) is not None}
    rest = {name: value for name, value in given.items() if name not in (*_OWN_FLAGS, *_SAID) and value is not None}
    return own | ({"--model-kwargs": [f"{name}={_literal(value)}" for name, value in rest.items()]} if rest else {})


def _literal(value: Any) -> str:
    """As `ast.literal_eval` reads it; text in the quotes that a shell leaves as they are."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _rates(config: TrainConfig) -> Flags:
    """What takes several flags together: the learning rate, and the numbers that the network computes in."""
    flags: Flags = {}
    if config.sched == "constant":
        flags |= {"--sched": "step", "--decay-epochs": config.epochs + 1}
    if config.lr_per:
        flags |= {"--lr-base": config.lr, "--lr-base-size": config.lr_per, "--lr-base-scale": "linear"}
    else:
        flags["--lr"] = config.lr
    if config.precision != "float32":
        flags["--amp-dtype"] = "bfloat16" if config.precision == "bf16" else "float16"
    return flags


def _switches(config: TrainConfig, source: str) -> list[str]:
    """Flags without a value that are wanted."""
    switches = {
        "--sched-on-updates": True,
        "--model-ema": config.ema,
        "--model-ema-warmup": config.ema,
        "--channels-last": config.channels_last,
        "--torchcompile": config.compile,
        "--grad-checkpointing": config.grad_checkpointing,
        "--amp": config.precision != "float32",
        "--pretrained": ":" in source or (Path(source) / WEIGHTS_FILE).exists(),
    }
    return [flag for flag, wanted in switches.items() if wanted]
