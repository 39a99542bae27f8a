"""The damage that a plan foretells, beside the KL that is measured once it is carried out.

    python examples/train_hierarchical.py --out runs/hierarchical
    python benchmarks/forecast.py --runs runs/hierarchical --cifar10 CIFAR10_AS_IDX_FILES --out docs/forecast.json

Each network is examined once with its compensation and once without; its plan at each budget is carried out as it is,
without comparing it with others. KL(source || cut) on the images that layers were fitted on, on as many others of the
training set, and on test images. What is there already is not measured again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from record import origin, put, resumed

from prune_realloc import InputError, build_recipe
from prune_realloc.data.batches import Batch
from prune_realloc.data.stream import ImageStream
from prune_realloc.planning.plan import planned
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.evaluate import measure
from prune_realloc.results.latency_tables import Tables
from prune_realloc.results.opening import Reading
from prune_realloc.verbs.own import Own
from prune_realloc.verbs.staged import Staged, staged

COMPENSATIONS: dict[str, dict[str, bool]] = {
    "default": {},
    "none": {"rotate": False, "refit": False, "mean_shift": False},
}
SAMPLES, TEST_IMAGES = 512, 2000


def foretold(base: dict[str, Any], budgets: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A row for each budget."""
    recipes = {share: build_recipe(base | {"budget": {"keep_macs": share}}) for share in budgets}
    with staged(
        next(iter(recipes.values())),
        model=None,
        own=Own(batches=None, loss=None, inputs=None, score=None, reads_logits=True),
        reading=Reading(batch_size=64),
        eval_split="validation",
        eval_samples=TEST_IMAGES,
        device="cpu",
        amp=False,
        tables=Tables(),
        check=lambda net, images: None,
    ) as stage:
        for share, recipe in recipes.items():
            yield {"requested": share} | _row(stage, recipe)


def _row(stage: Staged, recipe: Recipe) -> dict[str, Any]:
    try:
        recipe = planned(stage.seen.analysis, recipe)
    except InputError as error:  # a budget that the floors forbid is a result
        return {"error": str(error)}
    done = stage.carry_out(recipe, timed=False)
    images, test = stage.images, done.evaluation
    assert isinstance(images, ImageStream)
    assert recipe.plan is not None
    assert test is not None
    assert test.kl is not None
    unseen = images.held_back()
    assert unseen is not None

    def kl(batches: Iterator[Batch] | ImageStream) -> float:
        return measure(done.network, batches, labelled=False, source=stage.predictions).kl or 0.0

    kept = recipe.plan.achieved / recipe.plan.source
    numbers = {"keep_macs": kept, "predicted": recipe.plan.damage, "fitted": kl(images), "unseen": kl(unseen)}
    return {name: float(f"{value:.3g}") for name, value in (numbers | {"test": test.kl}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cifar10", required=True, help="IDX files of CIFAR-10")
    parser.add_argument("--fashion", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    names = ["demo", "swin", "efficientvit_msra", "efficientvit_mit", "hard_vit"]
    parser.add_argument("networks", nargs="*", default=names)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = resumed(args.out, {"rows": []}, origin(args.threads)) | {"samples": SAMPLES, "test_images": TEST_IMAGES}
    record["command"] = (
        "python benchmarks/forecast.py --runs runs/hierarchical --cifar10 CIFAR10_AS_IDX_FILES --out docs/forecast.json"
    )
    for name in args.networks:
        folder = Path(__file__).parent / name if name == "hard_vit" else args.runs / name
        source = {} if name == "demo" else {"source": {"ckpt": str(folder)}}
        images = {"name": args.cifar10 if name == "hard_vit" else args.fashion, "samples": SAMPLES}
        for how, compensate in COMPENSATIONS.items():
            have = {row["requested"] for row in record["rows"] if (row["network"], row["how"]) == (name, how)}
            left = [share for share in args.budgets if share not in have]
            for row in foretold(source | {"data": images, "compensate": compensate}, left) if left else ():
                print(name, how, row, flush=True)
                record["rows"].append({"network": name, "how": how} | row)
                put(record, args.out)


if __name__ == "__main__":
    main()
