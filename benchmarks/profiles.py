"""Where the run time of DeiT-T, Swin-T and EfficientViT-M0 goes, and which share of it the memory limits.

    python benchmarks/profiles.py --out docs/profile.json           # 4 minutes of an idle machine
    python benchmarks/profiles.py --out /tmp/profile.json --quick   # batch 1, 3 passes each: does it run?

Fresh weights, random images of 224 px, batch 1 and 32, one thread. Each network at each batch size is kept as soon as
it is measured, and the same command goes on from there. Beside `--out` lies the table, `.md`. It ends with code 1 where
the components or the classes of operators of a pass do not add up to its wall time within 5 %.

The paper (Liu et al., CVPR 2023, abstract) says of such networks, on a GPU, that their speed "is commonly bounded by
memory inefficient operations, especially the tensor reshaping and element-wise functions in MHSA": so the table has
the share of memory-bound operators, and of those two classes within attention. A script called profile.py would hide
Python's own.
"""

import argparse
import json
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
from record import keep, origin

from prune_realloc.results.operators import ELEMENTWISE, MOVES
from prune_realloc.results.profile import Pass, profile
from prune_realloc.results.regions import ATTENTION

NETWORKS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m0")
BATCHES = (1, 32)
OFF = 0.05
"""So far from the wall time may the sum of its parts be."""
COLUMNS = (
    "network",
    "batch",
    "ms",
    "ms, profiled",
    "memory-bound",
    "compute-bound",
    "reshape and element-wise in MHSA",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="batch 1, three passes")
    options = parser.parse_args()
    seconds, batches = (0.0, BATCHES[:1]) if options.quick else (options.seconds, BATCHES)
    settings = {"seconds": seconds} | origin(1, ("torch", "timm"))
    rows = done(options.out, settings)
    for batch, name in product(batches, NETWORKS):
        if any((row["model"], row["batch_size"]) == (name, batch) for row in rows):
            continue
        torch.manual_seed(0)
        net = timm.create_model(name).eval()
        found = profile({name: net}, (3, 224, 224), batch_sizes=(batch,), threads=1, seconds=seconds, progress=print)
        rows.append(numbers(found.passes[0]) | {"ceilings": asdict(found.ceilings)})
        keep({"passes": rows} | settings, options.out)
    options.out.with_suffix(".md").write_text(table(rows))
    off = [row for row in rows if max(abs(sum(row[parts].values()) - 1) for parts in ("kinds", "components")) > OFF]
    for row in off:
        print(f"{row['model']}, batch {row['batch_size']}: the parts do not add up to the wall time", file=sys.stderr)
    return 1 if off else 0


def done(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier start with the same settings on the same day has measured."""
    if not out.exists():
        return []
    found = json.loads(out.read_text())
    same = all(found.get(name) == value for name, value in settings.items())
    return list(found["passes"]) if same else []


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


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}"]
    for row in rows:
        shares = (row[name] for name in ("memory_bound", "compute_bound", "reshape_elementwise_mhsa"))
        cells = (row["model"], str(row["batch_size"]), f"{row['ms']:.2f}", f"{row['ms_profiled']:.2f}")
        lines.append(f"| {' | '.join((*cells, *(f'{share:.1%}' for share in shares)))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
