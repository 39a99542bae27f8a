"""Prune the backbone of a segmentation network: a loss and a measure of one's own, in Python.

    python examples/segmentation.py

The task, on the Fashion-MNIST pictures that the package ships: name each pixel, as background or as a part of one of
ten kinds of garment. The network is timm's `features_only` form of the shipped ViT under a small head, which is trained
here for a minute. Then the backbone is analysed by the head's own loss, one value for each picture; cut to 60 % of its
multiply-adds; refitted; and both networks are measured by the mean intersection over union (mIoU) on pictures that
neither training nor pruning saw. About two minutes on two cores.
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prune_realloc
from prune_realloc.data.idx import read_idx
from prune_realloc.data.images import DEMO

MEAN, STD, CLASSES = 0.2860, 0.3530, 11
FEATURES = (5, 11)
"""Blocks whose outputs the head reads."""
WEIGHTS = torch.tensor([0.2, *[1.0] * 10])
"""Of the classes in the loss; background is everywhere."""
Part = tuple[Tensor, Tensor]
"""Images and masks."""


class Segmenter(nn.Module):
    """(B, 1, 28, 28) -> logits of each pixel (B, 11, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        args = {"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "num_heads": 4}
        self.backbone = timm.create_model("deit_tiny_patch16_224", features_only=True, out_indices=FEATURES, **args)
        self.head = nn.Sequential(
            nn.Conv2d(64 * len(FEATURES), 128, 1),
            nn.GELU(),
            nn.Conv2d(128, CLASSES * 16, 1),
            nn.PixelShuffle(4),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cat(self.backbone(images), dim=1))


def pictures(split: str) -> Part:
    """Prepared images (n, 1, 28, 28), and the class of each pixel (n, 28, 28): 0 is background, 1 + label a garment."""
    grey = torch.from_numpy(read_idx(DEMO / f"{split}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(DEMO / f"{split}-labels-idx1-ubyte.gz").copy()).long()
    masks = torch.where(grey > 12, 1 + labels[:, None, None], 0)
    return (grey[:, None].float() / 255 - MEAN) / STD, masks


def segmentation_loss(output: Tensor, batch: Part) -> Tensor:
    """One value for each picture: the mean over its pixels."""
    return F.cross_entropy(output, batch[1], WEIGHTS, reduction="none").flatten(1).mean(1)


def train_head(net: Segmenter, images: Tensor, masks: Tensor, epochs: int) -> None:
    """The backbone stays as it is, so its features are computed once."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = torch.cat([torch.cat(net.backbone(x), dim=1) for x in images.split(256)])
    optimizer = torch.optim.AdamW(net.head.parameters(), lr=2e-3, weight_decay=0.01)
    steps = epochs * len(range(0, len(images), 64))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(epochs):
        for picked in torch.randperm(len(images), generator=draw).split(64):
            loss = segmentation_loss(net.head(features[picked]), (images[picked], masks[picked])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def mean_iou(net: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Over the classes: pixels in both the prediction and the truth, by pixels in either."""
    both, either = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for x, truth in zip(images.split(256), masks.split(256), strict=True):
        found = net(x).argmax(1)
        for kind in range(CLASSES):
            both[kind] += ((found == kind) & (truth == kind)).sum()
            either[kind] += ((found == kind) | (truth == kind)).sum()
    return float((both / either.clamp(min=1)).mean())


def prepared(train: int, choose: int, epochs: int) -> tuple[Segmenter, Part, Part]:
    """The shipped ViT's blocks under a head that was trained on `train` pictures; those, and `choose` others."""
    images, masks = pictures("train")
    learnt = images[:train], masks[:train]
    net = Segmenter()
    shipped = prune_realloc.load_model().state_dict()
    net.backbone.model.load_state_dict({name: shipped[name] for name in net.backbone.model.state_dict()})
    train_head(net.eval(), *learnt, epochs)
    return net, learnt, (images[train:][:choose], masks[train:][:choose])


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=3000, help="pictures to train the head on")
    parser.add_argument("--epochs", type=int, default=15, help="of the head")
    parser.add_argument("--calibration", type=int, default=512, help="of them, to analyse and refit on")
    parser.add_argument("--choose", type=int, default=500, help="others, to choose between two plans by")
    parser.add_argument("--test", type=int, default=5000, help="pictures to measure on")
    parser.add_argument("--keep-macs", type=float, default=0.6)
    parser.add_argument("--out", help="folder for the pruned network")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    net, learnt, chosen = prepared(args.train, args.choose, args.epochs)
    done = prune_realloc.apply(
        prune_realloc.build_recipe({"budget": {"keep_macs": args.keep_macs}, "data": {"samples": args.calibration}}),
        model=net,
        batches=list(zip(*(part.split(64) for part in learnt), strict=True)),
        loss=segmentation_loss,
        score=lambda network: mean_iou(network, *chosen),
        out=args.out,
        device="cpu",  # where the pictures are that loss and score compare with
        timed=False,
    )
    unseen = [part[: args.test] for part in pictures("t10k")]
    found = {"before": mean_iou(net, *unseen), "after": mean_iou(done.network, *unseen)}
    print("\n".join(done.notes))
    print(f"backbone: {done.source_cost.macs:,} multiply-adds before, {done.cost.macs:,} after")
    print(f"mIoU on {len(unseen[0]):,} unseen pictures: {found['before']:.4f} before, {found['after']:.4f} after")
    return found | {"macs": done.cost.macs / done.source_cost.macs}


if __name__ == "__main__":
    main()
