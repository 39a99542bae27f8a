"""The verb `analyze`: a network and images -> an Analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.names import Progress
from prune_realloc.pruning.examine import check_scorer, examine
from prune_realloc.pruning.scorers import DEFAULT_SCORER, WEIGHT_SCORERS
from prune_realloc.runtime.device import pick_device
from prune_realloc.runtime.networks import evaluation_mode
from prune_realloc.verbs.calibration import calibration


def analyze(
    model: nn.Module | str | None = None,
    *,
    ckpt: str | Path | None = None,
    pretrained: bool = False,
    ema: bool = False,
    img_size: int | tuple[int, int] | None = None,
    model_args: Mapping[str, Any] | None = None,
    data: str | None = None,
    split: str = "train",
    data_dir: str | None = None,
    labels: bool = True,
    preprocess: Mapping[str, Any] | None = None,
    scorer: str = DEFAULT_SCORER,
    samples: int = 1024,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    amp: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Analysis:
    """Score every unit of every site of a trained ViT.

    Args:
        model, ckpt, pretrained, ema, img_size, model_args: as in `load_model`; `model` may also be a network. With
            neither `model` nor `ckpt`, the shipped network is analysed on the shipped images.
        data, split, data_dir: as in `open_images`; needed by every scorer that looks at images.
        labels: False draws the labels from the model's own prediction even where the data has some.
        preprocess: overrides of the model's own preprocessing: mean, std, interpolation, crop_pct, crop_mode.
        scorer: one of `SCORERS`.
        samples: how many images, chosen by `seed`.
        device: `auto`, `cpu` or `cuda`.
        amp: bfloat16 autocast.

    Raises:
        InputError: the model, the data or an option cannot be used; the message says what to change.
    """
    check_scorer(scorer)
    for name, value, least in (("samples", samples, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        require_at_least(name, value, least)
    target = pick_device(device)
    net = (
        model
        if isinstance(model, nn.Module)
        else load_model(model, ckpt=ckpt, pretrained=pretrained, ema=ema, img_size=img_size, model_args=model_args)
    )
    if data is None and model is None and ckpt is None:
        data = "demo"
    if data is None and scorer not in WEIGHT_SCORERS:
        raise InputError(f"scorer {scorer!r} looks at images; name some with --data, or use one of {WEIGHT_SCORERS}")
    images = (
        None
        if scorer in WEIGHT_SCORERS
        else calibration(
            net,
            str(data),
            split=split,
            data_dir=data_dir,
            labels=labels,
            preprocess=preprocess,
            samples=samples,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            progress=progress,
        )
    )
    source = {
        "model": None if isinstance(model, nn.Module) else model,
        "ckpt": None if ckpt is None else str(ckpt),
        "pretrained": pretrained,
        "ema": ema,
        "img_size": img_size,
        "model_args": dict(model_args or {}),
    }
    asked = {"split": split, "data_dir": data_dir, "preprocess": dict(preprocess or {})}
    with evaluation_mode(net, device=target):
        return examine(net, images, scorer=scorer, seed=seed, amp=amp, source=source, asked=asked).analysis
