"""Networks that were planned by time beside networks that were planned by multiply-adds and are as fast, untrained.

    python examples/train_hierarchical.py --out runs/hierarchical
    python benchmarks/latency_accuracy.py --runs runs/hierarchical --out docs/latency_accuracy.json
    python benchmarks/latency_accuracy.py --runs benchmarks --data CIFAR10 --out docs/latency_accuracy.json hard_vit

CIFAR10: its images as IDX files, as examples/width_table/table.py writes them.

The shipped ViT and the networks of `--runs` (folders, by name), batches of 32 on one core, eager. For each share of the
source's time one plan by time; then the share of multiply-adds is sought at which a plan by damage takes the same time
by the same table. Both are cut and refitted on the same images, judged on the 10,000 test images, and timed in turns;
over draws of the images, so that the noise is known. What the file has is not measured again. For an idle machine.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import origin, put, resumed
from torch import Tensor, nn
from torch_pruning_baseline import evaluate, load_tensors

from prune_realloc import Analysis, InputError, analyze, apply, build_recipe, load_model
from prune_realloc.core.latency import LatencyTable
from prune_realloc.families import family_of
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.results.bench import bench
from prune_realloc.results.export import deployed
from prune_realloc.results.latency import measure_latency
from prune_realloc.results.latency_tables import Tables

BATCH = 32
SHIPPED = "demo"
TIME = {"batch": BATCH, "threads": 1, "runtime": "eager"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.35], help="of the source's time")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--samples", type=int, default=512, help="calibration images")
    parser.add_argument("--seconds", type=float, default=120.0, help="for a table of times")
    parser.add_argument("networks", nargs="*", default=[SHIPPED, "swin", "efficientvit_msra", "efficientvit_mit"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python benchmarks/latency_accuracy.py --runs runs/hierarchical --out {args.out}"
    record = resumed(args.out, {"rows": []}, {"command": command, **origin(1)})
    rows = record["rows"]
    have = {(row["network"], row["share"], row["seed"]) for row in rows}
    for name in args.networks:
        source = {} if name == SHIPPED else {"ckpt": str(args.runs / name)}
        net = load_model(**source)
        test = load_tensors(net, args.data, "test")
        table = measure_latency(net, runtime="eager", batch=BATCH, threads=1, seconds=args.seconds)
        for seed in range(args.draws):
            images = {"name": args.data, "samples": args.samples, "seed": seed}
            missing = [share for share in args.shares if (name, share, seed) not in have]
            if not missing:
                continue
            analysis = analyze(data=args.data, samples=args.samples, seed=seed, device="cpu", **source)
            for share in missing:
                fields = {"data": images} | ({"source": source} if source else {})
                row = {"network": name, "share": share, "seed": seed}
                rows.append(row | _compared(net, table, analysis, fields, share, test))
                put(record, args.out)
                print(rows[-1], flush=True)


def _compared(
    net: nn.Module,
    table: LatencyTable,
    analysis: Analysis,
    fields: dict[str, Any],
    share: float,
    test: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    """Accuracy, cost and time of both, and the source's."""
    by_time = {"keep_latency": share} | TIME
    wanted = _predicted(analysis, table, by_time)
    by_macs = {"keep_macs": _as_fast(analysis, table, wanted)}
    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder) / "table.json")
        tables = Tables(file=Path(folder) / "table.json")
        done = {
            "time": apply(build_recipe(fields | {"budget": by_time}), timed=False, tables=tables, device="cpu"),
            "macs": apply(build_recipe(fields | {"budget": by_macs}), timed=False, device="cpu"),
        }
    nets = {"source": net} | {way: one.network for way, one in done.items()}
    deploy = {way: deployed(one) for way, one in nets.items()}  # as the table has them
    timings = bench(deploy, family_of(net).example_input(net)[1:], batch_sizes=(BATCH,), threads=1).timings
    with torch.no_grad():
        top1 = {way: round(evaluate(one, *test)[1], 2) for way, one in nets.items()}
    return {
        "top1": top1,
        "keep_macs": {way: round(one.cost.macs / one.source_cost.macs, 4) for way, one in done.items()},
        "keep_time": {timing.model: round(1 / timing.speedup, 4) for timing in timings},
        "predicted_time": {
            way: round(table.predict(widths(find_sites(one.network))) / table.measured[0].ms, 4)
            for way, one in done.items()
        },
    }


def _predicted(analysis: Analysis, table: LatencyTable, budget: dict[str, Any]) -> float:
    found = plan(analysis, build_recipe({"budget": budget}), table if "keep_latency" in budget else None)
    return table.predict({name: site.width for name, site in found.sites.items()})


def _as_fast(analysis: Analysis, table: LatencyTable, wanted: float) -> float:
    """The share of multiply-adds at which a plan by damage takes so many milliseconds, to a thousandth."""

    def fast(share: float) -> bool:
        try:
            return _predicted(analysis, table, {"keep_macs": share}) <= wanted
        except InputError:  # no plan costs so little
            return True

    low, high = 0.02, 1.0
    while high - low > 1e-3:
        middle = round((low + high) / 2, 4)
        low, high = (middle, high) if fast(middle) else (low, middle)
    return low


if __name__ == "__main__":
    main()
