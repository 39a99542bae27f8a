"""Half of the FFN units, or half of the Q/K dimensions, of every block and nothing else, as publications have it.

    python benchmarks/halves.py --cifar10 CIFAR10_AS_IDX_FILES --out docs/halves.json

The shipped ViT (Fashion-MNIST) and the hard one (CIFAR-10) by the shipped recipes `ffn_half` and `qk_half`, without any
training; the 10,000 test images give the result.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from record import keep, origin
from torch_pruning_baseline import evaluate, load_tensors

from prune_realloc import apply, load_model, load_recipe
from prune_realloc.recipe.options import with_overrides

RECIPES = {"half of the FFN units": "ffn_half", "half of Q/K": "qk_half"}
SAMPLES = 512


def halved(folder: Path | None, data: str, draws: int) -> dict[str, Any]:
    """Top-1 of a network, and of what each recipe leaves of it for each draw of the calibration images."""
    net = load_model(ckpt=folder)
    test = load_tensors(net, data, "test")
    found: dict[str, Any] = {"dense": round(evaluate(net, *test)[1], 2), "rows": []}
    for name, recipe in RECIPES.items():
        for seed in range(draws):
            source = {} if folder is None else {"ckpt": str(folder)}
            images = {"name": data, "split": "train", "samples": SAMPLES, "seed": seed}
            done = apply(with_overrides(load_recipe(recipe), source, images), timed=False, eval_samples=1000)
            assert done.evaluation is not None
            found["rows"].append(
                {
                    "how": name,
                    "seed": seed,
                    "keep_macs": round(done.cost.macs / done.source_cost.macs, 4),
                    "keep_params": round(done.cost.params / done.source_cost.params, 4),
                    "top1": round(evaluate(done.network, *test)[1], 2),
                }
            )
            print(found["rows"][-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="IDX files of CIFAR-10")
    parser.add_argument("--fashion", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = origin(args.threads) | {
        "command": "python benchmarks/halves.py --cifar10 CIFAR10_AS_IDX_FILES --out docs/halves.json",
        "samples": SAMPLES,
        "networks": {
            "demo": halved(None, args.fashion, args.draws),
            "hard_vit": halved(Path(__file__).parent / "hard_vit", args.cifar10, args.draws),
        },
    }
    keep(record, args.out)


if __name__ == "__main__":
    main()
