"""Train small hierarchical networks on Fashion-MNIST: what `benchmarks/hierarchical.py` prunes.

    sudo apt-get install dataset-fashion-mnist
    python examples/train_hierarchical.py --out runs/hierarchical

A Swin, an EfficientViT of MSRA and one of MIT, each of timm with a small stem or few channels, on images of 28 px that
are enlarged to what the network takes. AdamW, cosine decay, flips and shifts of at most 2 px. About 15 minutes each on
one core. An interrupted run goes on from the last whole epoch when started again with the same command.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import Tensor
from train_demo_vit import MEAN, STD, accuracy, augment, load_split

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "patch_size": 4,
            "window_size": 4,
            "embed_dim": 64,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "drop_path_rate": 0.0,
        },
    ),
    "efficientvit_msra": ("efficientvit_m0", {"img_size": 64}),
    "efficientvit_mit": ("efficientvit_b0", {}),
}
"""Name -> timm's name and arguments."""
SIZES = {"swin": 32, "efficientvit_msra": 64, "efficientvit_mit": 64}
"""Name -> side of the images, in pixels."""
EPOCHS = {"swin": 14, "efficientvit_msra": 6, "efficientvit_mit": 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = (load_split(args.fashion_mnist, split) for split in ("train", "t10k"))
    for name in args.networks:
        fit(name, train, test, args.out / name)


def fit(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], out: Path) -> None:
    """Train one network and write it as a timm folder, with its top-1 on the test images."""
    torch.manual_seed(0)
    architecture, model_args = NETWORKS[name]
    given = model_args | {"in_chans": 1, "num_classes": 10}
    net = timm.create_model(architecture, **given)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    out.mkdir(parents=True, exist_ok=True)
    state, begun = out / "state.pth", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        begun = saved["epoch"]
    for epoch in range(begun, EPOCHS[name]):
        start = time.perf_counter()
        loss = one_epoch(net, optimizer, *train, SIZES[name], epoch, EPOCHS[name])
        print(f"{name} epoch {epoch + 1}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, state)
    top1 = accuracy(net, enlarged(test[0], SIZES[name]), test[1])
    print(f"{name}: top-1 {top1:.4f}", flush=True)
    size = (1, SIZES[name], SIZES[name])
    config = {"input_size": size, "mean": (MEAN,), "std": (STD,), "num_classes": 10, "crop_pct": 1.0}
    net.pretrained_cfg = net.pretrained_cfg | config
    save_for_hf(net, out, model_args=given, safe_serialization=True)


def one_epoch(
    net: Any, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, size: int, epoch: int, epochs: int
) -> float:
    """Mean loss over all training images, in batches of 128."""
    net.train()
    generator = torch.Generator().manual_seed(epoch)
    batches = torch.randperm(len(labels), generator=generator).split(128)
    total = 0.0
    for step, batch in enumerate(batches):
        share = (epoch + step / len(batches)) / epochs
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, 20 * share) * (1 + math.cos(math.pi * share)) / 2
        x = enlarged(augment(images[batch], generator), size)
        loss = F.cross_entropy(net(x), labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(labels)


def enlarged(images: Tensor, size: int) -> Tensor:
    """(n, 1, 28, 28) -> (n, 1, size, size)."""
    return images if size == images.shape[-1] else F.interpolate(images, (size, size), mode="bilinear")


if __name__ == "__main__":
    main()
