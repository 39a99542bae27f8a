"""How long the planner takes where four streams are to be narrowed too, and how far from the bound its plan is.

    python benchmarks/planning_speed.py --out docs/planning_speed.json

timm's Swin-T with random weights; damage is measured on 16 random images with random labels, as good as any here.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import timm
import torch
from record import keep, origin

from prune_realloc import analyze, build_recipe, plan

MODEL = "swin_tiny_patch4_window7_224"
AXES = ["heads", "qk", "v", "ffn", "embed"]
SHARES = (0.7, 0.5, 0.3)
IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = timm.create_model(MODEL).eval()
    images, labels = torch.randn(IMAGES, 3, 224, 224), torch.randint(1000, (IMAGES,))
    analysis = analyze(model=net, batches=[*zip(images.split(8), labels.split(8), strict=True)])
    found: dict[str, Any] = {}
    for share in SHARES:
        recipe = build_recipe({"budget": {"keep_macs": share}, "axes": AXES})
        start = time.perf_counter()
        done = plan(analysis, recipe)
        assert done.bound is not None
        seconds = round(time.perf_counter() - start, 2)
        found[str(share)] = {"seconds": seconds, "damage": done.damage, "bound": done.bound}
    command = "python benchmarks/planning_speed.py --out docs/planning_speed.json"
    keep({"command": command, **origin(1, ("torch", "timm")), "model": MODEL, "axes": AXES, "shares": found}, args.out)


if __name__ == "__main__":
    main()
