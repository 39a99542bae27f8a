"""`train` on small images against bare training steps of the same network: what everything around the steps costs.

    python benchmarks/train_speed.py --out docs/train_speed.json

An EfficientViT of 2 million multiply-adds and images of 32 px, drawn at random and kept as IDX files, in batches of
256. A round is one epoch of `train` for every recipe of augmentations, and before and after it as many bare steps:
forward, backward, clipping and optimizer on a batch that lies ready. Counted are seconds of the processor, on one
thread, which other work on the machine disturbs less: of `train` those between its first report inside the epoch and
its last, so without opening the images, which is done once, and without the evaluation.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from record import keep, origin

from prune_realloc import train
from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.training.config import train_config

BATCH = 256
NETWORK = {
    "img_size": 32,
    "num_classes": 10,
    "stem_strides": [2, 2],
    "embed_dim": [16, 36, 56],
    "qk_dim": 8,
    "v_dim": [4, 9, 14],
    "window_size": [8, 4, 2],
}
"""That of the paper's rules in the study of reallocation, on images of one channel or three."""
RECIPES: dict[str, dict[str, Any]] = {
    "quick": {},
    "colour, erasing, mixup and cutmix": {"color_jitter": 0.4, "reprob": 0.25, "mixup": 0.8, "cutmix": 1.0},
    "RandAugment": {"auto_augment": "rand-m9-mstd0.5-inc1"},
}
"""Name -> settings over the preset `quick`."""


def write_images(folder: Path, count: int) -> Path:
    """Random images and labels as IDX files."""
    draw = np.random.default_rng(0)
    arrays = {"images-idx3": draw.integers(0, 256, (count, 32, 32)), "labels-idx1": draw.integers(0, 10, count)}
    for kind, values in arrays.items():
        header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        (folder / f"train-{kind}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())
    return folder


class BareSteps:
    """Steps of the network on one batch."""

    def __init__(self) -> None:
        self.net = EfficientVit(EfficientVitConfig(**NETWORK)).to(memory_format=torch.channels_last).train()
        config = train_config()
        self.optimizer = timm.optim.create_optimizer_v2(
            self.net, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay
        )
        self.images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (BATCH,))

    def images_per_second(self, steps: int) -> float:
        started = time.process_time()
        for _ in range(steps):
            F.cross_entropy(self.net(self.images), self.labels).backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return steps * BATCH / (time.process_time() - started)


def trained_images_per_second(data: Path, steps: int, settings: dict[str, Any]) -> float:
    """Of the steps after the tenth, at which `train` reports first."""
    seen: list[tuple[float, float]] = []

    def report(row: dict[str, float]) -> None:
        if "done" in row:
            seen.append((row["done"], time.process_time()))

    with tempfile.TemporaryDirectory() as out:
        train(
            "efficientvit_flex",
            train_config(epochs=1, batch_size=BATCH, **settings),
            data=str(data),
            eval_split="held-out",
            samples=(steps + 10) * BATCH,
            model_args={name: value for name, value in NETWORK.items() if name != "num_classes"},
            out=out,
            device="cpu",
            report=report,
        )
    (before, started), (done, ended) = seen[0], seen[-1]
    return (done - before) * (steps + 10) * BATCH / (ended - started)


def measure(data: Path, rounds: int, steps: int) -> dict[str, Any]:
    bare, found = BareSteps(), {name: {"train": [], "over_bare": []} for name in RECIPES}
    bare.images_per_second(2)
    all_bare = [bare.images_per_second(steps)]
    for _ in range(rounds):
        for name, settings in RECIPES.items():
            rate = trained_images_per_second(data, steps, settings)
            all_bare.append(bare.images_per_second(steps))
            found[name]["train"].append(rate)
            found[name]["over_bare"].append(rate / (sum(all_bare[-2:]) / 2))
    return {"bare": spread(all_bare, 0)} | {
        name: {"train": spread(values["train"], 0), "over_bare": spread(values["over_bare"], 3)}
        for name, values in found.items()
    }


def spread(values: list[float], digits: int) -> dict[str, Any]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return {"median": round(median(values), digits), "quartiles": [round(low, digits), round(high, digits)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="that are timed, a multiple of ten")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = write_images(Path(folder), (args.steps + 11) * BATCH)
        found = measure(data, args.rounds, args.steps)
    record = {
        "command": f"python benchmarks/train_speed.py --rounds {args.rounds} --steps {args.steps}",
        "batch_size": BATCH,
        "macs": EfficientVitConfig(**NETWORK).cost.of(DEFAULT_KIND),
        "images_per_second": found,
    } | origin(1, ("torch", "timm", "numpy", "pillow"))
    keep(record, args.out)


if __name__ == "__main__":
    main()
