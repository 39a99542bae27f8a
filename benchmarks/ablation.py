"""Every scorer against brute force: mask one unit at a time and measure how much the loss really changes.

    python benchmarks/ablation.py --out docs/ablation.json

Two rank correlations (Spearman) for each scorer and axis, over units drawn from every block: with the loss change
(signed) and with its size, on the images that were scored and on as many others.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from record import origin, put
from torch import Tensor, nn

from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.intervals import rank_correlation
from prune_realloc.core.structure import AXES, Site
from prune_realloc.data.batches import Batch, iterate
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.families import family_of
from prune_realloc.pruning.gates import activation_variances, gate_moments
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.scorers import GRADIENT_SCORERS, WEIGHT_SCORERS, gradient_scores, weight_scores
from prune_realloc.pruning.sites import find_sites
from prune_realloc.runtime.networks import model_identity


def loss_changes(model: nn.Module, site: Site, units: list[int], images: Tensor, labels: Tensor) -> np.ndarray:
    """Change of the mean loss (nats per image) when each unit alone is masked, shape (units,)."""
    with torch.inference_mode():
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images.double()))))
        first = site.block or 0
        for block in model.blocks[:first]:  # these do not see the mask, so they run once
            x = block(x)

        def loss() -> float:
            y = x
            for block in model.blocks[first:]:
                y = block(y)
            return float(F.cross_entropy(model.forward_head(model.norm(y)), labels))

        whole = loss()
        changes = []
        for unit in units:
            with masked(model, site, [unit]):
                changes.append(loss() - whole)
    return np.array(changes)


def all_scores(model: nn.Module, sites: tuple[Site, ...], batches: list[Batch]) -> dict[str, dict[str, np.ndarray]]:
    moments = gate_moments(model, sites, batches, objective=LABELS)
    scores = {name: gradient_scores(name, moments, labelled=True) for name in GRADIENT_SCORERS}
    scores["activation"] = {k: v.mean(axis=0) for k, v in activation_variances(model, sites, batches).items()}
    return scores | {name: weight_scores(name, model, sites) for name in WEIGHT_SCORERS}


def measure(
    images: int, units: int, blocks: list[int] | None = None, axes: tuple[str, ...] = AXES, held_out: bool = True
) -> dict[str, dict]:
    """Axis -> scorer -> the four correlations, on the shipped model and images."""
    model = load_model()
    sites = find_sites(model)
    prepare = preprocessing(model, family_of(model).example_input(model)[1:], {})
    batches = list(iterate(open_images("demo"), prepare, samples=2 * images, batch_size=128, seed=0))
    every = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    scored = [b for b in batches if b.positions.max() < images]
    assert sum(len(b.labels) for b in scored) == images, "images must be a multiple of 128"
    scores = all_scores(model, sites, scored)
    model.double()  # a dead unit changes the loss by less than single precision can tell
    halves = [(every[0][:images], every[1][:images])]
    if held_out:
        halves.append((every[0][images:], every[1][images:]))
    rng = np.random.default_rng(0)
    pairs: dict[str, dict[str, list]] = {}
    for site in sites:
        if site.axis not in axes or (blocks is not None and site.block not in blocks):
            continue
        chosen = sorted(rng.choice(site.units, size=min(units, site.units), replace=False).tolist())
        kept = pairs.setdefault(site.axis, {"chosen": [], "changes": [[] for _ in halves]})
        kept["chosen"] += [(site.name, u) for u in chosen]
        for half, (x, y) in enumerate(halves):
            kept["changes"][half] += loss_changes(model, site, chosen, x, y).tolist()
    result: dict[str, dict] = {}
    for axis, kept in pairs.items():
        for scorer, by_site in scores.items():
            values = np.array([by_site[name][u] for name, u in kept["chosen"]])
            row = {}
            for where, changes in zip(("same", "other"), map(np.array, kept["changes"]), strict=False):
                row[f"change_{where}"] = round(rank_correlation(values, changes), 3)
                row[f"size_{where}"] = round(rank_correlation(values, np.abs(changes)), 3)
            result.setdefault(axis, {})[scorer] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--units", type=int, default=16, help="units drawn from each site")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    table = measure(args.images, args.units)
    record = {
        "command": f"python benchmarks/ablation.py --images {args.images} --units {args.units}",
        "model": model_identity(load_model()),
        "images": args.images,
        "units": args.units,
        "seconds": round(time.perf_counter() - started),
        "table": table,
    } | origin(args.threads, ("torch", "timm", "numpy"))
    put(record, args.out)
    for axis, rows in table.items():
        for scorer, row in rows.items():
            print(f"{axis:6} {scorer:13}", *(f"{key} {value:6.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
