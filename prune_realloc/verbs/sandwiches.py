"""`profile --sweep-mhsa`: EfficientViTs of a network's cost with other shares of attention layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.checkpoints.save import config_file
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import make_folder, write_files
from prune_realloc.core.names import EFFICIENTVIT
from prune_realloc.families.inputs import input_shape
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.sandwiches import attention_share, sandwich
from prune_realloc.pruning.sites import cost_of
from prune_realloc.recipe.target import Target
from prune_realloc.results.bench import bench
from prune_realloc.results.export import deployed
from prune_realloc.results.sandwiches import SANDWICHES_FILE, Sandwich, Sandwiches
from prune_realloc.runtime.global_state import random_state_kept
from prune_realloc.runtime.networks import count_classes
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.outputs import Report
from prune_realloc.training.train import train


def sandwiches(
    net: nn.Module,
    shares: Sequence[float],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = 2.0,
    seed: int = 0,
    data: str | None = None,
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    named: str = "",
    how: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    report: Report | None = None,
) -> Sandwiches:
    """Size, time and, with `data`, train one EfficientViT for each share.

    Args:
        net: supported network, whose multiply-adds, images and classes all of them have.
        shares: of attention layers among attention and FFN layers.
        batch_sizes, threads, device, seconds, seed, progress: as in `bench`.
        data: images to train on, as in `train`.
        config: how each network is trained. Default: `TrainConfig()`.
        out: folder for `sandwiches.json` and a folder with each network, and with `data` its training.
        named, how: what the network is called on the command line, and how it was opened there, for the record.
        report: as in `train`.

    Raises:
        InputError: a share or the cost cannot be met, a share is given twice, or `data` is given without `out`.
    """
    if data is not None and out is None:
        raise InputError("train: the networks and their trainings need a folder; name it with -o")
    if len({*shares}) < len(shares):
        raise InputError("sweep-mhsa: a share is given twice; leave one of them out")
    target, macs = _target(net), cost_of(net).macs
    configs = {share: sandwich(target, share, macs) for share in shares}
    with random_state_kept():
        nets = {f"{share:g}": deployed(EfficientVit(each)) for share, each in configs.items()}
    timed = bench(
        nets,
        input_shape(net),
        batch_sizes=batch_sizes,
        threads=threads,
        device=device,
        seconds=seconds,
        seed=seed,
        progress=progress,
    )
    settings, right = config or TrainConfig(), {}
    if out is not None:
        places = _written(configs, Path(out))
        if data is not None:
            right = {
                share: train(place, settings, data=data, out=place / "run", device=device, report=report).top1
                for share, place in places.items()
            }
    ms = {(timing.model, timing.batch_size): timing.median_ms for timing in timed.timings}
    found = Sandwiches(
        networks=tuple(
            _sandwich(share, each, {size: ms[f"{share:g}", size] for size in batch_sizes}, right.get(share))
            for share, each in configs.items()
        ),
        device_name=timed.device_name,
        threads=timed.threads,
        epochs=None if data is None else settings.epochs,
        named=named,
        how=dict(how or {}),
    )
    if out is not None:
        write_files(Path(out), {SANDWICHES_FILE: found.file()})
    return found


def _target(net: nn.Module) -> Target:
    chans, height, width = input_shape(net)
    return Target(like="efficientvit_m0", img_size=(height, width), in_chans=chans, num_classes=count_classes(net) or 0)


def _sandwich(share: float, config: EfficientVitConfig, ms: Mapping[int, float], top1: float | None) -> Sandwich:
    has = attention_share(config)
    return Sandwich(
        asked=share,
        share=has,
        mean_ffns=(1 / has - 1) / 2,
        macs=config.cost.macs,
        params=config.cost.params,
        args=config.args(),
        ms=ms,
        top1=top1,
    )


def _written(configs: Mapping[float, EfficientVitConfig], out: Path) -> dict[float, Path]:
    """Share -> folder of its network, which has no weights: `train` begins with new ones."""
    places = {share: out / f"share-{share:g}" for share in configs}
    for share, config in configs.items():
        described = config_file(
            EFFICIENTVIT,
            config.args(),
            num_classes=config.num_classes,
            num_features=config.embed_dim[-1],
            input_size=config.input_size,
            pretrained_cfg={},
        )
        make_folder(places[share])
        write_files(places[share], {"config.json": described})
    return places
