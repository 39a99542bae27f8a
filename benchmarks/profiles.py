"""Where the run time of DeiT-T, Swin-T and EfficientViT-M0 goes, and which share of it the memory limits.

    python benchmarks/profiles.py --out docs/profile.json

Fresh weights, random images of 224 px, batch 1 and 32, one thread. A script called profile.py would hide Python's own.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from record import keep, origin

from prune_realloc.results.profile import profile

NETWORKS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    models = {name: timm.create_model(name).eval() for name in NETWORKS}
    found = profile(models, (3, 224, 224), threads=1, seconds=options.seconds, progress=print)
    rows = [
        {
            "model": each.model,
            "batch_size": each.batch_size,
            "ms": each.unprofiled_ms,
            "ms_profiled": each.wall_ms,
            "kinds": {name: ms / each.wall_ms for name, ms in each.kinds.items()},
            "components": {name: ms / each.wall_ms for name, ms in each.components.items()},
            "memory_bound": each.memory_share,
            "compute_bound": each.compute_share,
        }
        for each in found.passes
    ]
    ceilings = asdict(found.ceilings)
    keep({"ceilings": ceilings, "passes": rows} | origin(found.threads, ("torch", "timm")), options.out)


if __name__ == "__main__":
    main()
