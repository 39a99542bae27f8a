"""Predicted against measured time of networks that no latency table was fitted to.

    python benchmarks/latency_prediction.py --out docs/latency_prediction.json

Four of timm's networks, random weights, 224 px, float32, one core, eager and ONNX Runtime, batch 1 and 8. For each
of the sixteen settings a table is measured; then twelve plans, drawn with another seed than the table's networks, are
cut and timed in turns with their source: six with widths of their own at every site, six with one share everywhere.
What the file has is not measured again, so it may be interrupted. For an idle machine; an hour.

Where the C library is told to keep freed memory (`benchmarks/page_faults.py`), rows of their own say so:

    MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000 python benchmarks/latency_prediction.py \
        --out docs/latency_prediction.json --networks deit_tiny_patch16_224 --runtimes eager --batches 8
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from record import origin, put
from torch import nn

from prune_realloc import cut_to_widths, find_sites
from prune_realloc.core.latency import LatencyTable
from prune_realloc.families import family_of
from prune_realloc.results.backends import BACKENDS
from prune_realloc.results.latency import measure_latency
from prune_realloc.results.latency_draws import drawn_widths
from prune_realloc.results.page_faults import memory_is_kept
from prune_realloc.results.turns import interleave

KEPT = memory_is_kept()
NETWORKS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m2")
BATCHES = (1, 8)
PLANS, TOGETHER = 12, 6
SEED = 1_000
"""Of the plans; the tables' is 0."""
SHAPE = (3, 224, 224)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=("eager", "onnxruntime"))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--seconds", type=float, default=180.0, help="for a table")
    parser.add_argument("--plans", type=int, default=PLANS, help="for each network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for name in args.networks:
        for runtime in args.runtimes:
            missing = [batch for batch in args.batches if not any(_is_of(row, name, runtime, batch) for row in rows)]
            for batch in missing:
                rows.append(_setting(name, runtime, batch, args.seconds, args.plans))
                _write(rows, args.out)


def _is_of(row: dict[str, Any], name: str, runtime: str, batch: int) -> bool:
    have = (row["network"], row["runtime"], row["batch"], row["memory_kept"])
    return have == (name, runtime, batch, KEPT)


def _setting(name: str, runtime: str, batch: int, seconds: float, plans: int) -> dict[str, Any]:
    """One table, and the plans beside it."""
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    table = measure_latency(net, runtime=runtime, batch=batch, threads=1, seconds=seconds, progress=print)
    found = [point for group in _groups(net, table, plans) for point in _timed(net, table, group)]
    return {
        "network": name,
        "runtime": runtime,
        "batch": batch,
        "memory_kept": KEPT,
        "table_networks": len(table.measured),
        "table_seconds": table.seconds,
        "table_error": [round(error, 4) for error in table.error],
        "notes": list(table.notes),
        "source_ms": round(table.measured[0].ms, 3),
        "plans": found,
    }


def _groups(net: nn.Module, table: LatencyTable, plans: int) -> Iterator[list[dict[str, int]]]:
    """Plans, as many as take turns; the draws with few blocks are none that a planner makes."""
    draws = drawn_widths(find_sites(net), family_of(net).describe(net).terms, SEED)
    wanted = islice((widths for number, widths in enumerate(draws) if number % 3), plans)
    while group := list(islice(wanted, TOGETHER)):
        yield group


def _timed(net: nn.Module, table: LatencyTable, group: list[dict[str, int]]) -> Iterator[dict[str, Any]]:
    where = table.conditions
    images = torch.randn(where.batch, *SHAPE, generator=torch.Generator().manual_seed(SEED))
    run = partial(BACKENDS[where.runtime], input_shape=SHAPE, threads=1, device=torch.device("cpu"))
    runs = {"source": run(net)} | {str(n): run(cut_to_widths(net, widths).eval()) for n, widths in enumerate(group)}
    calls = {name: partial(each, images) for name, each in runs.items()}
    with torch.inference_mode():
        times = interleave(calls, warmup=2, rounds=11, seconds=1.0, seed=SEED)
    source = table.predict(table.measured[0].widths)
    for number, widths in enumerate(group):
        ratio = float(np.median(np.divide(times[str(number)], times["source"])))
        predicted, ms = table.predict(widths), 1e3 * float(np.median(times[str(number)]))
        yield {
            "kind": "alike" if number % 2 == 0 else "each its own",
            "predicted_ms": round(predicted, 3),
            "ms": round(ms, 3),
            "error": round(predicted / ms - 1, 4),
            "ratio_error": round(predicted / source / ratio - 1, 4),
        }


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    plans = [plan for row in rows if not row["memory_kept"] for plan in row["plans"]]
    errors = {kind: np.abs([plan[kind] for plan in plans]) for kind in ("error", "ratio_error")}
    summary = {
        kind: {"median": round(float(np.median(each)), 4), "p95": round(float(np.quantile(each, 0.95)), 4)}
        for kind, each in errors.items()
    }
    command = f"python benchmarks/latency_prediction.py --out {out}"
    record = {"command": command, **origin(1, ("torch", "timm", "onnxruntime")), "plans": len(plans)}
    put(record | {"summary": summary, "rows": rows}, out)
    print(rows[-1]["network"], rows[-1]["runtime"], rows[-1]["batch"], summary)


if __name__ == "__main__":
    main()
