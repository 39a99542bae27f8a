"""Where the run time of DeiT-T, Swin-T and EfficientViT-M0 goes, and which share of it the memory limits.

    python benchmarks/profiles.py --out docs/profiles.json           # 4 minutes of an idle machine
    python benchmarks/profiles.py --out profiles.json --seconds 0    # 3 passes each: does it run?

Fresh weights, random images of 224 px, batch 1 and 32, one thread. Each network at each batch size is kept as soon as
it is measured, and the same command goes on from there. It ends with code 1 where the components or the classes of
operators of a pass do not add up to its wall time within 5 %.

The paper (Liu et al., CVPR 2023, abstract) says of such networks, on a GPU, that their speed "is commonly bounded by
memory inefficient operations, especially the tensor reshaping and element-wise functions in MHSA": so the table has
the share of memory-bound operators, and of those two classes within attention. A script called profile.py would hide
Python's own.
"""

import argparse
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
from record import origin, put, resumed

from prune_realloc.results.operators import ELEMENTWISE, MOVES
from prune_realloc.results.profile import Pass, profile
from prune_realloc.results.regions import ATTENTION

NETWORKS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m0")
BATCHES = (1, 32)
PARTS, OFF = ("kinds", "components"), 0.05
"""So far from the wall time may the sum of its parts be."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    seconds = options.seconds
    now = {"command": f"python benchmarks/profiles.py --out {options.out}", **origin(1, ("torch", "timm"))}
    record = resumed(options.out, {"rows": []}, now)
    for batch, name in product(BATCHES, NETWORKS):
        if any((row["model"], row["batch_size"]) == (name, batch) for row in record["rows"]):
            continue
        torch.manual_seed(0)
        net = timm.create_model(name).eval()
        found = profile({name: net}, (3, 224, 224), batch_sizes=(batch,), threads=1, seconds=seconds, progress=print)
        record["rows"].append(numbers(found.passes[0]) | {"ceilings": asdict(found.ceilings), "seconds": seconds})
        put(record, options.out)
    off = [row for row in record["rows"] if max(abs(sum(row[parts].values()) - 1) for parts in PARTS) > OFF]
    for row in off:
        print(f"{row['model']}, batch {row['batch_size']}: the parts do not add up to the wall time", file=sys.stderr)
    return 1 if off else 0


def numbers(each: Pass) -> dict[str, Any]:
    """Shares of the wall time with the profiler."""
    inside = each.cells[ATTENTION]
    return {
        "model": each.model,
        "batch_size": each.batch_size,
        "ms": each.unprofiled_ms,
        "ms_profiled": each.wall_ms,
        "kinds": {name: ms / each.wall_ms for name, ms in each.kinds.items()},
        "components": {name: ms / each.wall_ms for name, ms in each.components.items()},
        "memory_bound": each.memory_share,
        "compute_bound": each.compute_share,
        "reshape_elementwise_mhsa": sum(inside.get(kind, 0.0) for kind in (MOVES, ELEMENTWISE)) / each.wall_ms,
    }


if __name__ == "__main__":
    sys.exit(main())
