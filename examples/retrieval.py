"""Prune a backbone without a classifier for retrieval: k nearest neighbours as the measure, in Python.

    python examples/retrieval.py

The shipped ViT without its head puts out 64 numbers for a picture of Fashion-MNIST. A query finds the nearest pictures
of a gallery by the angle between those; it is answered right where most of the five nearest show its kind of garment.
The loss, one value for each picture, is how unlikely a neighbour of the right kind is among the gallery as the whole
network sees it (neighbourhood components, Goldberger et al., NIPS 2004). The network is analysed by it, cut to 60 % of
its multiply-adds, refitted, and both are measured with queries that pruning never saw, each on its own gallery. Two
minutes on two cores.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prune_realloc
from prune_realloc.data.idx import read_idx
from prune_realloc.data.images import DEMO

MEAN, STD = 0.2860, 0.3530
NEIGHBOURS = 5
SHARPNESS = 20.0
"""By how much the likelihood of a neighbour grows with the cosine."""
Part = tuple[Tensor, Tensor]
"""Images and labels."""


def pictures(split: str) -> Part:
    """Prepared images (n, 1, 28, 28) and labels (n,)."""
    grey = torch.from_numpy(read_idx(DEMO / f"{split}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(DEMO / f"{split}-labels-idx1-ubyte.gz").copy())
    return (grey[:, None].float() / 255 - MEAN) / STD, labels.long()


@torch.no_grad()
def embedded(net: nn.Module, images: Tensor) -> Tensor:
    """Unit vectors (n, D)."""
    return torch.cat([F.normalize(net(x), dim=1) for x in images.split(256)])


def right_by_neighbours(net: nn.Module, gallery: Part, queries: Part) -> float:
    """Share of the queries that most of their nearest neighbours answer right."""
    nearest = (embedded(net, queries[0]) @ embedded(net, gallery[0]).T).topk(NEIGHBOURS).indices
    votes = F.one_hot(gallery[1][nearest]).sum(1)
    return float((votes.argmax(1) == queries[1]).float().mean())


class NeighbourLoss:
    """Minus the log likelihood that a neighbour drawn from a gallery is of the picture's kind."""

    def __init__(self, net: nn.Module, gallery: Part) -> None:
        self.vectors, self.labels = embedded(net, gallery[0]), gallery[1]

    def __call__(self, output: Tensor, batch: Part) -> Tensor:
        likely = SHARPNESS * F.normalize(output, dim=1) @ self.vectors.T
        same = self.labels == batch[1][:, None]
        return likely.logsumexp(1) - likely.masked_fill(~same, -torch.inf).logsumexp(1)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=2500, help="pictures to search in")
    parser.add_argument("--calibration", type=int, default=1024, help="others, to analyse and refit on")
    parser.add_argument("--choose", type=int, default=476, help="others, to choose between two plans by")
    parser.add_argument("--test", type=int, default=5000, help="queries to measure with")
    parser.add_argument("--keep-macs", type=float, default=0.6)
    parser.add_argument("--out", help="folder for the pruned network")
    args = parser.parse_args(arguments)
    sizes = [args.gallery, args.calibration, args.choose]
    whole = pictures("train")
    gallery, fitted, chosen = zip(*(part[: sum(sizes)].split(sizes) for part in whole), strict=True)
    net = prune_realloc.load_model()
    net.reset_classifier(0)
    done = prune_realloc.apply(
        prune_realloc.build_recipe({"budget": {"keep_macs": args.keep_macs}}),
        model=net,
        batches=list(zip(*(part.split(64) for part in fitted), strict=True)),
        loss=NeighbourLoss(net.eval(), gallery),
        score=lambda network: right_by_neighbours(network, gallery, chosen),
        out=args.out,
        device="cpu",  # where the pictures are that loss and score compare with
        timed=False,
    )
    queries = tuple(part[: args.test] for part in pictures("t10k"))
    found = {
        "before": right_by_neighbours(net, gallery, queries),
        "after": right_by_neighbours(done.network, gallery, queries),
    }
    print("\n".join(done.notes))
    print(f"{done.source_cost.macs:,} multiply-adds before, {done.cost.macs:,} after")
    print(
        f"{len(queries[0]):,} unseen queries answered right: {found['before']:.2%} before, {found['after']:.2%} after"
    )
    return found | {"macs": done.cost.macs / done.source_cost.macs}


if __name__ == "__main__":
    main()
