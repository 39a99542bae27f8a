"""How far training brings a network back that was cut without any compensation, and in how many CPU minutes.

    python benchmarks/recovery.py --out docs/recovery.json

The shipped ViT, cut to 0.3 of its multiply-adds by the default plan, with neither rotation nor refit nor mean shift;
then the preset `recover` with the source as teacher on the 60,000 training images of Fashion-MNIST. Top-1 on the 10,000
test images.
"""

import argparse
from pathlib import Path

import torch
from record import keep, origin

from prune_realloc import apply, build_recipe, train
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.results.evaluate import evaluate
from prune_realloc.training.config import train_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--runs", type=Path, default=Path("runs/recovery"))
    parser.add_argument("--keep-macs", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nothing = {"rotate": False, "refit": False, "mean_shift": False}
    out = args.runs / f"{args.keep_macs:g}"
    recipe = build_recipe({"budget": {"keep_macs": args.keep_macs}, "compensate": nothing})
    cut = apply(recipe, out=out / "pruned", timed=False)
    data = str(args.fashion_mnist)
    before = evaluate(ckpt=out / "pruned", source=str(DEMO), data=data, split="test")
    done = train(
        out / "pruned",
        train_config("recover"),
        data=data,
        eval_split="test",
        teacher=DEMO,
        out=out / "trained",
        device="cpu",
    )
    record = {
        "command": f"python benchmarks/recovery.py --keep-macs {args.keep_macs}",
        "keep_macs": round(cut.cost.macs / cut.source_cost.macs, 4),
        "source_top1": before.source_top1,
        "cut_top1": before.top1,
        "recovered_top1": done.top1,
        "minutes": round(done.seconds / 60, 1),
        "epochs": done.epochs,
    } | origin(args.threads, ("torch", "timm", "accelerate"))
    keep(record, args.out)


if __name__ == "__main__":
    main()
