"""What page faults cost: passes of DeiT-T with the C library's defaults, and told to keep the memory that is freed.

    python benchmarks/page_faults.py --out docs/page_faults.json

Eager, 224 px, float32, one thread, a fresh process for each environment; medians of a pass, faults of a pass, and what
one costs: the difference of the times over that of the faults. For an idle machine, two minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from record import origin, put

from prune_realloc.results.page_faults import KEEP, page_faults

NETWORK, BATCHES = "deit_tiny_patch16_224", (1, 4, 8, 16, 32)
SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.here:
        print(json.dumps(list(_timed())))
        return
    found = {name: _of_a_process(more) for name, more in (("default", {}), ("kept", KEEP))}
    rows = []
    for default, kept in zip(found["default"], found["kept"], strict=True):
        fewer = default["faults"] - kept["faults"]
        each = 1e3 * (default["ms"] - kept["ms"]) / fewer if fewer > 100 else None
        rows.append({"batch": default["batch"], "default": default, "kept": kept, "microseconds": each})
        print(rows[-1], flush=True)
    command = f"python benchmarks/page_faults.py --out {args.out}"
    put({"command": command, **origin(1, ("torch", "timm")), "network": NETWORK, "rows": rows}, args.out)


@torch.inference_mode()
def _timed() -> Iterator[dict[str, Any]]:
    net = timm.create_model(NETWORK).eval()
    for batch in BATCHES:
        images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            net(images)
        times: list[float] = []
        before = page_faults()
        while sum(times) < SECONDS:
            begin = time.perf_counter()
            net(images)
            times.append(time.perf_counter() - begin)
        faults = (page_faults() - before) / len(times)
        yield {"batch": batch, "ms": round(1e3 * median(times), 3), "faults": round(faults)}


def _of_a_process(environment: dict[str, str]) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--here"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return list(json.loads(done.stdout))


if __name__ == "__main__":
    main()
