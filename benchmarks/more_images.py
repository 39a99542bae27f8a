"""What more calibration images add: points lost, and what the two halves of the images say of it, by their number.

    python benchmarks/more_images.py --out docs/more_images.json
    python benchmarks/more_images.py hard_vit --data cifar10/ --out docs/more_images.json

The shipped ViT and its images, or the ViT of `benchmarks/hard_vit` and its, as IDX files; layers are fitted to so many
training images, the test images give the result. Widths are those of least predicted damage; no other way to spend the
budget is tried. Each number of images has a process of its own, so that the memory is its alone; times are of the
processor, one thread. What is there already is not measured again: `--samples 16000` adds a row.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import origin, put, resumed
from torch_pruning_baseline import evaluate, load_tensors

from prune_realloc import build_recipe, load_model
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.latency_tables import Tables
from prune_realloc.results.opening import Reading
from prune_realloc.verbs.own import Own
from prune_realloc.verbs.staged import Staged, staged

NETWORKS = {"demo": None, "hard_vit": str(Path(__file__).parent / "hard_vit")}


def measured(
    network: str, data: str, samples: int, seed: int, shares: list[float], threads: int
) -> list[dict[str, Any]]:
    """A row for each share, of one examination."""
    torch.set_num_threads(threads)
    images = {"name": data, "samples": samples, "seed": seed}
    recipes = {
        share: build_recipe({"source": {"ckpt": NETWORKS[network]}, "data": images, "budget": {"keep_macs": share}})
        for share in shares
    }
    started = time.process_time()
    with staged(
        recipes[shares[0]],
        model=None,
        own=Own(reads_logits=True),
        reading=Reading(batch_size=64, workers=0, progress=None),
        eval_split="test",
        eval_samples=1,
        device="cpu",
        amp=False,
        tables=Tables(),
        check=lambda net, images: None,
    ) as stage:
        examined = time.process_time() - started
        shared = {"network": network, "samples": samples, "seed": seed, "examination_cpu_seconds": round(examined, 1)}
        return [{"requested": share} | shared | row(stage, recipe) for share, recipe in recipes.items()]


def row(stage: Staged, recipe: Recipe) -> dict[str, Any]:
    """What one budget costs; the network is examined already."""
    started = time.process_time()
    done = stage.carry_out(recipe.model_copy(update={"plan": plan(stage.seen.analysis, recipe)}), timed=False)
    seconds = time.process_time() - started
    loss, top1 = evaluate(done.network, *load_tensors(stage.net, str(recipe.data.name), "test"))
    assert done.explained is not None
    return {
        "top1": round(top1, 2),
        "loss": round(loss, 4),
        "fitted": round(done.explained.fitted, 5),
        "unseen": round(done.explained.unseen, 5),
        "cpu_seconds": round(seconds, 1),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def is_of(row: dict[str, Any], network: str, samples: int, seed: int) -> bool:
    return (row["network"], row["samples"], row["seed"]) == (network, samples, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="demo", choices=list(NETWORKS))
    parser.add_argument("--data", default="demo", help="folder of IDX files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--samples", type=int, nargs="+", default=[128, 260, 1000, 4000])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = resumed(args.out, {"dense": {}, "rows": []}, origin(args.threads, ("torch", "timm")))
    record["command"] = "python benchmarks/more_images.py hard_vit --data cifar10/ --out docs/more_images.json"
    if args.network not in record["dense"]:
        net = load_model(ckpt=NETWORKS[args.network])
        record["dense"][args.network] = round(evaluate(net, *load_tensors(net, args.data, "test"))[1], 2)
        put(record, args.out)
    for seed, samples in product(range(args.draws), args.samples):
        have = {each["requested"] for each in record["rows"] if is_of(each, args.network, samples, seed)}
        shares = [share for share in args.budgets if share not in have]
        if not shares:
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(measured, args.network, args.data, samples, seed, shares, args.threads).result()
        for each in found:
            print(*(f"{key}={value}" for key, value in each.items()), flush=True)
        record["rows"] += found
        put(record, args.out)


if __name__ == "__main__":
    main()
