"""Train the ViT that the package ships, on the whole of Fashion-MNIST, and write it as a timm model directory.

    sudo apt-get install dataset-fashion-mnist
    python examples/train_demo_vit.py --out prune_realloc/assets/demo_vit

DeiT's layout (class token, 12 pre-norm blocks, fused qkv) at a width that fits in 2 MB: 28 px images in 4 px
patches, 64 channels, 4 heads. AdamW, one epoch of warm-up, cosine decay to zero, flips and shifts of at most
2 px. All but the last `--full-epochs` epochs see a random half of the patches (PatchDropout, arXiv 2208.07220),
which halves their time. An interrupted run goes on from `--state` when started again with the same command.
"""

import argparse
import math
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import Tensor

from prune_realloc.data.idx import read_idx

MEAN, STD = 0.2860, 0.3530
ARCHITECTURE = "deit_tiny_patch16_224"
MODEL_ARGS = {
    "img_size": 28,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "num_heads": 4,
}


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28), normalised, and labels (n,) of one split of an IDX folder."""
    images = torch.from_numpy(read_idx(folder / f"{split}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(folder / f"{split}-labels-idx1-ubyte.gz").copy())
    return (images[:, None].float() / 255 - MEAN) / STD, labels.long()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random flip and a random shift of at most 2 px for each image."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, (2, 2, 2, 2), value=-MEAN / STD)
    offset = torch.randint(0, 5, (count, 2), generator=generator)
    rows = offset[:, :1] + torch.arange(height)
    columns = offset[:, 1:] + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path("runs/demo_vit_training.pt"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--full-epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile: about 1.5x on CPU")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    timm.layers.set_fused_attn(False)  # at 50 tokens the plain product is faster on CPU
    train_images, train_labels = load_split(args.data, "train")
    model = timm.create_model(ARCHITECTURE, patch_drop_rate=0.5, **MODEL_ARGS)
    decay = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr)
    steps = len(train_labels) // args.batch_size
    first = 0
    if args.state.is_file():
        state = torch.load(args.state, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    run = torch.compile(model) if args.compile else model

    for epoch in range(first, args.epochs):
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        torch.manual_seed(args.seed * 1000 + epoch)
        model.patch_drop.prob = 0.5 if epoch < args.epochs - args.full_epochs else 0.0
        model.train()
        order = torch.randperm(len(train_labels), generator=generator)[: steps * args.batch_size]
        started, total = time.perf_counter(), 0.0
        for step, index in enumerate(order.split(args.batch_size)):
            done = (epoch * steps + step) / (args.epochs * steps)
            warm = min(1.0, done * args.epochs)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * done))
            loss = F.cross_entropy(run(augment(train_images[index], generator)), train_labels[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        # the last 2,000 training images, seen in training, only show that the run is sound
        seen = accuracy(model, train_images[-2000:], train_labels[-2000:])
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch + 1}: loss {total / steps:.4f}, train top-1 {seen:.4f}, {seconds:.0f} s",
            flush=True,
        )
        args.state.parent.mkdir(parents=True, exist_ok=True)
        partial = args.state.with_suffix(".tmp")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, partial)
        partial.replace(args.state)

    model.half().float()  # the file holds half precision, so this is what a user gets
    test_images, test_labels = load_split(args.data, "t10k")
    top1 = accuracy(model, test_images, test_labels)
    print(f"test top-1 {top1:.4f} on {len(test_labels)} images")
    model.pretrained_cfg.update(
        input_size=(1, 28, 28),
        num_classes=10,
        mean=(MEAN,),
        std=(STD,),
        crop_pct=1.0,
        fixed_input_size=True,
        label_names=[
            "t-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ],
    )
    save_for_hf(model.half(), args.out, model_args=MODEL_ARGS, safe_serialization=True)


if __name__ == "__main__":
    main()
