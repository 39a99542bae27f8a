"""How much of its multiply-adds' worth a cut network is faster: share of multiply-adds over share of time.

    python benchmarks/speed_per_mac.py --out docs/speed_per_mac.json

timm's networks with random weights, 224 px, float32, one core. At each share of the cost four networks: uniform;
planned by damage (of random weights on 64 random images: widths that mean nothing and are as irregular as real ones);
planned by time; and the paper's pattern (a quarter of Q/K, V whole, the FFN by the budget) where it reaches the share.
All take turns with their source. 1 is what multiply-adds promise. A network that is planned by time has a budget of
time in place of one of multiply-adds. What the file has is not measured again, so it may be interrupted. Started with
the environment that docs/benchmarks.md names under "What page faults cost", rows say that memory was kept. For an idle
machine; `gflops` of a row is what its largest matrix products reached before it was measured.
"""

import argparse
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from record import origin, put, resumed
from torch import nn

from prune_realloc import Analysis, InputError, analyze, build_recipe, cut_to_widths, find_sites
from prune_realloc.core.cost import total_cost
from prune_realloc.core.latency import LatencyTable
from prune_realloc.families import family_of
from prune_realloc.planning.plan import plan
from prune_realloc.results.backends import BACKENDS
from prune_realloc.results.bench import bench
from prune_realloc.results.ceilings import measured_ceilings
from prune_realloc.results.export import deployed
from prune_realloc.results.latency import measure_latency
from prune_realloc.results.page_faults import memory_is_kept

NETWORKS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m2")
NETWORKS += ("deit_small_patch16_224", "deit_base_patch16_224")
SHARES = (0.7, 0.5, 0.3)
SHAPE = (3, 224, 224)
QUARTER = 0.25
_Kept = Callable[[dict[str, int]], float]
"""Widths -> share of the source's multiply-adds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=list(BACKENDS), choices=list(BACKENDS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=180.0, help="for a table of times")
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "benchmarks/speed_per_mac.py", "--out", str(args.out)])  # goes on until it has all
    now = {"command": command, **origin(1, ("torch", "timm", "onnxruntime"))}
    record = resumed(args.out, {"rows": []}, now)
    rows = record["rows"]
    kept, core = memory_is_kept(), round(measured_ceilings(torch.device("cpu")).flops_per_s / 1e9, 1)
    have = {(row["network"], row["runtime"], row["batch"], row.get("memory_kept", False)) for row in rows}
    for name in args.networks:
        torch.manual_seed(0)
        net = timm.create_model(name).eval()
        analysis = analyze(net, batches=[(torch.randn(16, *SHAPE),) for _ in range(4)], device="cpu")
        for runtime in args.runtimes:
            for batch in args.batches:
                if (name, runtime, batch, kept) not in have:
                    table = measure_latency(net, runtime=runtime, batch=batch, threads=1, seconds=args.seconds)
                    more = {"memory_kept": kept, "gflops": core}
                    rows += (row | more for row in _setting(name, net, analysis, table))
                    put(record, args.out)
                    print(*(f"{row['way']} {row['share']}: {row['of_ideal']}" for row in rows[-12:]), flush=True)


def _setting(name: str, net: nn.Module, analysis: Analysis, table: LatencyTable) -> Iterator[dict[str, Any]]:
    """Every share and way to plan, timed in turns with the source."""
    where = table.conditions
    kept = _share_of_macs(net)
    for share in SHARES:
        chosen = dict(_plans(net, analysis, table, share, kept))
        nets = {way: deployed(cut_to_widths(net, widths)).eval() for way, widths in chosen.items()}
        nets = {"source": deployed(net)} | nets
        timed = bench(nets, SHAPE, batch_sizes=(where.batch,), backends=(where.runtime,), threads=1)
        for timing in timed.timings[1:]:
            macs = kept(chosen[timing.model])
            yield {
                "network": name,
                "runtime": where.runtime,
                "batch": where.batch,
                "share": share,
                "way": timing.model,
                "macs": round(macs, 4),
                "time": round(1 / timing.speedup, 4),
                "of_ideal": round(macs * timing.speedup, 3),
                "interval": [round(macs * bound, 3) for bound in timing.speedup_interval],
            }


def _plans(
    net: nn.Module, analysis: Analysis, table: LatencyTable, share: float, kept: _Kept
) -> Iterator[tuple[str, dict[str, int]]]:
    where = table.conditions
    time = {"keep_latency": share, "batch": where.batch, "threads": where.threads, "runtime": where.runtime}
    ways: dict[str, dict[str, Any]] = {
        "uniform": {"budget": {"keep_macs": share}, "allocation": "uniform"},
        "damage": {"budget": {"keep_macs": share}},
        "time": {"budget": time},
    }
    for way, fields in ways.items():
        try:
            found = plan(analysis, build_recipe(fields), table if way == "time" else None)
        except InputError as error:
            print(f"{way} at {share}: {error}", flush=True)
            continue
        yield way, {name: site.width for name, site in found.sites.items()}
    if pattern := _paper(net, share, kept):
        yield "paper", pattern


def _paper(net: nn.Module, share: float, kept: _Kept) -> dict[str, int] | None:
    """A quarter of Q/K, V whole, and of the FFN what the budget leaves; None: not even a sixteenth of it is left."""
    sites = find_sites(net)

    def widths(ffn: float) -> dict[str, int]:
        shares = {"qk": QUARTER, "ffn": ffn}
        return {site.name: max(1, round(site.width * shares.get(site.axis, 1.0))) for site in sites}

    low, high = 1 / 16, 1.0
    if not kept(widths(low)) <= share <= kept(widths(high)):
        return None
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(widths(middle)) <= share else (low, middle)
    return widths(low)


def _share_of_macs(net: nn.Module) -> _Kept:
    """Of the source's, by widths."""
    terms = family_of(net).describe(net).terms
    source = total_cost(terms, {site.name: site.width for site in find_sites(net)}).macs
    return lambda widths: total_cost(terms, widths).macs / source


if __name__ == "__main__":
    main()
