"""The paper's figure: what pruning keeps of Q/K, V and FFN per block, of a ViT and of a Swin, both trained.

python examples/train_hierarchical.py --out runs/hierarchical swin
python benchmarks/retention.py --swin runs/hierarchical/swin --out docs/retention_swin.png
"""

import argparse
from pathlib import Path

import torch

from prune_realloc import analyze
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.results.figures import retention_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swin", type=Path, required=True)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    analyses = [analyze(ckpt=ckpt, data=args.data, samples=1024) for ckpt in (DEMO, args.swin)]
    args.out.write_bytes(retention_figure(*analyses))


if __name__ == "__main__":
    main()
