"""Does reallocation pay? Reallocated EfficientViTs against their uniform controls and the paper's rules, several seeds.

    sudo apt-get install dataset-fashion-mnist
    python examples/reallocation_study/study.py --phase choose
    python examples/reallocation_study/study.py --phase final

The source is a ViT that was trained on the same data (for Fashion-MNIST the shipped one). Its analysis gives, at every
budget, a reallocated network and its uniform control; the paper's rules (Q/K 8, V = embed / heads, FFN ratio 2, stages
in M0's proportions) give a third. All are trained the same way. `choose` trains on a part of the training images and
evaluates on the rest of them: rules and settings are decided there. `final` trains on all of them and looks at the test
images, once. Every step that is done is kept, so the same command goes on where it stopped.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from prune_realloc import Analysis, analyze, emit
from prune_realloc.compare import compare, write_plot
from prune_realloc.efficientvit_config import EfficientVitConfig

HERE = Path(__file__).parent
STEM = (2, 2)
PAPER = {"embed": {"move": False, "round_to": 4}, "qk": {"width": 8}, "v": {"ratio": 1.0}, "ffn": {"ratio": 2.0}}
"""recipes/efficientvit_paper.yaml, with Q/K of 8: at these sizes 16 would be wider than embed / heads."""
SETTINGS = {"epochs": 4, "batch_size": 64, "lr": 2e-3, "warmup_epochs": 1, "smoothing": 0.0}
HELD_OUT = {"fashion": 20_000}
"""Images that `choose` trains on; the other training images are evaluated."""


def variants(analysis: Analysis, budgets: list[int], out: Path) -> dict[str, Path]:
    """Name -> folder of every network of the study."""
    found = {}
    for budget in budgets:
        own = {"macs": budget, "stem_strides": STEM}
        folder = out / f"{budget / 1e6:g}M"
        emit(analysis, target=own, out=folder / "measured", timed=False)
        emit(analysis, target=own | {"growth": "like", "rules": PAPER}, out=folder / "rules", timed=False)
        for name, place in (
            ("realloc", "measured/realloc"),
            ("control", "measured/control"),
            ("paper", "rules/realloc"),
        ):
            found[f"{budget / 1e6:g}M-{name}"] = folder / place
    return found


def commands(args: argparse.Namespace, networks: dict[str, Path]) -> list[list[str]]:
    """One training for each network and seed, the seeds one after the other."""
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    data = ["--data", str(args.fashion_mnist), "--device", "cpu"]
    part = ["--eval-split", "test"]
    if args.phase == "choose":
        part = ["--eval-split", "held-out", "--samples", str(HELD_OUT["fashion"])]
    return [
        [sys.executable, "-m", "prune_realloc", "train", str(folder), *data, *part, *settings, "--set", f"seed={seed}",
         "-o", str(args.out / args.phase / f"{name}-seed{seed}")]
        for seed in range(args.seeds)
        for name, folder in networks.items()
    ]  # fmt: skip


def run_all(todo: list[list[str]], streams: int) -> None:
    """`streams` trainings at a time, one thread each."""
    running: list[subprocess.Popen] = []
    waiting = [command for command in todo if not (Path(command[-1]) / "result.json").exists()]
    while waiting or running:
        while waiting and len(running) < streams:
            command = waiting.pop(0)
            print(time.strftime("%H:%M:%S"), command[-1], flush=True)
            running.append(subprocess.Popen(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ))  # fmt: skip
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise SystemExit(f"failed: {' '.join(process.args)}")


def record(args: argparse.Namespace, networks: dict[str, Path], budgets: list[int]) -> None:
    """Results of this phase as JSON, table and figure beside this script."""
    groups = []
    for budget in budgets:
        names = [name for name in networks if name.startswith(f"{budget / 1e6:g}M-")]
        runs = [args.out / args.phase / f"{name}-seed{seed}" for name in names for seed in range(args.seeds)]
        groups += compare(runs, control=f"{budget / 1e6:g}M-control")
    configs = {
        name: json.loads((folder / "config.json").read_text())["model_args"] for name, folder in networks.items()
    }
    content = {
        "command": f"python examples/reallocation_study/study.py --phase {args.phase} --seeds {args.seeds}",
        "settings": SETTINGS, "images": HELD_OUT["fashion"] if args.phase == "choose" else 60_000,
        "evaluated_on": "10,000 other training images" if args.phase == "choose" else "the test images",
        "groups": [dataclasses.asdict(group) for group in groups],
        "configs": configs,
        "macs": {name: EfficientVitConfig(**config).cost.macs for name, config in configs.items()},
        "machine": f"{platform.machine()}, {args.streams} runs at a time, 1 thread each",
        "versions": {name: version(name) for name in ("prune-realloc", "torch", "timm", "accelerate")},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    (HERE / f"{args.phase}.json").write_text(json.dumps(content, indent=1) + "\n")
    write_plot(groups, HERE / f"{args.phase}.png")
    lines = ["| network | seeds | top-1 % | to the control, points | MACs | parameters |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for g in groups:
        difference = (
            "" if g.difference is None else f"{100 * g.difference:+.2f} +- {100 * (g.difference_half_width or 0):.2f}"
        )
        top1 = f"{100 * g.mean:.2f} +- {100 * (g.half_width or 0):.2f}"
        lines.append(f"| {g.name} | {len(g.seeds)} | {top1} | {difference} | {g.macs:,} | {g.params:,} |")
    (HERE / f"{args.phase}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=("choose", "final"), required=True)
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2_000_000, 5_000_000])
    parser.add_argument("--streams", type=int, default=2, help="trainings at a time, one thread each")
    args = parser.parse_args()
    folder = args.out / "analysis"
    if not (folder / "analysis.json").exists():
        analyze().save(folder)
    networks = variants(Analysis.load(folder), args.budgets, args.out / "variants")
    run_all(commands(args, networks), args.streams)
    record(args, networks, args.budgets)


if __name__ == "__main__":
    main()
