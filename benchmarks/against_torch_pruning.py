"""Ours against torch-pruning in one run: accuracy without training, and the time from a loaded to a pruned model.

    python benchmarks/against_torch_pruning.py --data /usr/share/datasets/fashion-mnist \\
        --accuracy docs/pruning.json --speed docs/pruning_speed.json

Accuracy: the shipped ViT at 0.7, 0.5 and 0.3 of its MACs, 2,048 calibration images for everyone, all images of the
test set (Debian's dataset-fashion-mnist has the 10,000; `demo` the shipped half). Ours with each part on and off. The
two halves of this table run side by side, on a core each.
Speed: random weights at 224 px, scores at hand (`torch_pruning_baseline.time_torch_pruning` says what is theirs).
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from record import origin, put
from torch_pruning_baseline import (
    CALIBRATION_IMAGES,
    baseline_table,
    count_macs,
    evaluate,
    load_tensors,
    time_torch_pruning,
)

from prune_realloc import Analysis, apply, build_recipe, load_model, plan
from prune_realloc.data.batches import Batch
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import damage_curves, kept_units, score_curve
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.moments import GradientWatch, layer_moments
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.rotate import rotated
from prune_realloc.pruning.scorers import gradient_scores
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.runtime.networks import model_identity

SHARES = (0.7, 0.5, 0.3)
_OFF: dict[str, bool] = {"rotate": False, "refit": False, "mean_shift": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "scores only": {"compensate": _OFF},
    "scores, mean shift": {"compensate": _OFF | {"mean_shift": True}},
    "rotation, mean shift": {"compensate": _OFF | {"rotate": True, "mean_shift": True}},
    "refit": {"compensate": _OFF | {"refit": True, "mean_shift": True}},
    "rotation and refit, uniform widths": {"allocation": "uniform"},
    "rotation and refit, one share per axis": {"allocation": "per-axis"},
    "rotation and refit (the default)": {},
    "rotation and refit, embedding too": {"axes": ["qk", "v", "ffn", "embed"]},
}
MODELS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "vit_large_patch16_224")


def our_table(data: str) -> list[dict[str, Any]]:
    """A row for each variant and share, like those of `baseline_table`."""
    test = load_tensors(load_model(), data, "test")
    rows = []
    for name, values in VARIANTS.items():
        for share in SHARES:
            recipe = build_recipe({"budget": {"keep_macs": share}, "data": {"samples": CALIBRATION_IMAGES}} | values)
            started = time.perf_counter()
            done = apply(recipe, timed=False, eval_samples=2000, batch_size=128)
            seconds = time.perf_counter() - started
            loss, top1 = evaluate(done.network, *test)
            rows.append(
                {
                    "variant": name,
                    "requested": share,
                    "keep_macs": round(done.cost.macs / done.source_cost.macs, 4),
                    "keep_params": round(done.cost.params / done.source_cost.params, 4),
                    "top1": round(top1, 2),
                    "loss": round(loss, 4),
                    "seconds": round(seconds, 1),
                    "predicted": done.summary()["predicted_damage"],
                    "kl": float(f"{done.summary()['kl']:.3g}"),
                }
            )
            print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    return rows


def time_ours(name: str, runs: int) -> dict[str, float]:
    """Median seconds from a loaded to a pruned model at half of the MACs, scores at hand."""
    stages: dict[str, list[float]] = {"sites": [], "planning": [], "cut": []}
    keep_macs = 0.0
    for _ in range(runs):
        torch.manual_seed(0)
        model: Any = timm.create_model(name, pretrained=False).eval()
        rng = np.random.default_rng(0)
        scores = {site.name: rng.random(site.units) for site in find_sites(model)}
        marks = [time.perf_counter()]
        sites = find_sites(model)
        structure = family_of(model).describe(model)
        curves = {site.name: score_curve(site, scores[site.name]) for site in sites}
        marks.append(time.perf_counter())
        analysis = Analysis(
            scores=scores,
            damage={n: c.damage for n, c in curves.items()},
            widths=widths(sites),
            groups={s.name: s.groups for s in sites},
            terms=structure.terms,
            scorer="fisher",
            unit="nats",
            samples=0,
            seed=0,
            model={},
            data=None,
            stability={},
        )
        planned = plan(analysis, build_recipe({"budget": {"keep_macs": 0.5}}))
        marks.append(time.perf_counter())
        smaller = cut(model, sites, kept_units(curves, {n: s.width for n, s in planned.sites.items()}, sites))
        marks.append(time.perf_counter())
        for stage, begin, end in zip(stages, marks, marks[1:], strict=False):
            stages[stage].append(end - begin)
        keep_macs = planned.macs / planned.source
        del model, smaller
    return {stage: round(statistics.median(times), 3) for stage, times in stages.items()} | {
        "keep_macs": round(keep_macs, 4),
        "runs": runs,
    }


def time_compensation(name: str, images: int) -> dict[str, float]:
    """Seconds of what a cut with rotation and refit costs on top, for random images; the passes grow with `images`."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name, pretrained=False).eval()
    x, y = torch.randn(images, 3, 224, 224), torch.randint(1000, (images,))
    batches = [
        Batch(*parts, checksums=()) for parts in zip(torch.arange(images).split(8), x.split(8), y.split(8), strict=True)
    ]
    sites, structure = find_sites(model), family_of(model).describe(model)
    marks = {"start": time.perf_counter()}
    watch = GradientWatch(model, structure)
    with watch.attached(batches) as watched:
        moments = gate_moments(model, sites, watched, objective=LABELS)
    marks["scoring pass"] = time.perf_counter()
    layers = layer_moments(model, structure, watch, batches)
    marks["second moments"] = time.perf_counter()
    turned = rotated(model, structure, layers)
    network, layers = turned.network, turned.moments
    marks["rotation"] = time.perf_counter()
    curves = damage_curves(network, sites, structure, layers, gradient_scores("fisher", moments, labelled=True))
    marks["damage curves"] = time.perf_counter()
    half = {s.name: s.width // 2 if s.axis in ("qk", "v", "ffn") else s.width for s in sites}
    keep = kept_units(curves, half, sites)
    smaller = cut(network, sites, keep)
    marks["cut"] = time.perf_counter()
    weights = {key: read.weight for key, read in (layers.writers | layers.readers).items()}
    refit_(smaller, network, sites, keep, weights, batches, ridge=True)
    marks["refit"] = time.perf_counter()
    names = list(marks)
    return {b: round(marks[b] - marks[a], 2) for a, b in pairwise(names)} | {
        "images": images,
        "keep_macs": round(count_macs(smaller, x[:1]) / count_macs(model, x[:1]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", type=Path, help="write the table of accuracies")
    parser.add_argument("--speed", type=Path, help="write the table of times")
    parser.add_argument("--data", default="demo", help="test images: demo, or a folder of IDX files")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.accuracy:
        with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (max(1, args.threads // 2),)) as pool:
            halves = pool.submit(our_table, args.data), pool.submit(baseline_table, SHARES, data=args.data)
            ours, theirs = (half.result() for half in halves)
        test = load_tensors(load_model(), args.data, "test")
        record = origin(args.threads) | {
            "command": f"python benchmarks/against_torch_pruning.py --accuracy docs/pruning.json --data {args.data}",
            "model": model_identity(load_model()),
            "test_images": len(test[1]),
            "dense": dict(zip(("loss", "top1"), (round(v, 4) for v in evaluate(load_model(), *test)), strict=True)),
            "ours": ours,
            "torch_pruning": theirs,
        }
        put(record, args.accuracy)
    if args.speed:
        record = origin(args.threads) | {
            "command": "python benchmarks/against_torch_pruning.py --speed docs/pruning_speed.json"
        }
        record["models"] = {}
        for name in MODELS:
            runs = 1 if name.startswith("vit_large") else 3
            record["models"][name] = {
                "ours": time_ours(name, runs),
                "compensation": time_compensation(name, images=16) if runs > 1 else None,
                "torch_pruning": time_torch_pruning(name, runs=runs),
            }
            print(name, record["models"][name], flush=True)
        put(record, args.speed)


if __name__ == "__main__":
    main()
