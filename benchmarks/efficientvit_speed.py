"""Our EfficientViT against timm's with the same weights: inference in several forms, and a training step, in one run.

    python benchmarks/efficientvit_speed.py --out docs/efficientvit_speed.json

Random images of 224 px in batches of 16. All forms of a network are timed in turns, in an order drawn for each round;
medians are reported, as images per second, and as the median over the rounds of timm's time over the form's in the
same round.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from record import keep, origin
from torch import Tensor, nn

from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys
from prune_realloc.results.backends import BACKENDS
from prune_realloc.results.bench import interleave, timings_of
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import onnx_session

BATCH = 16


def forms(stock: nn.Module, ours: EfficientVit, device: str, threads: int) -> dict[str, Any]:
    """Name -> a function of the images; the first is the reference."""
    deploy = ours.fuse()
    compiled = partial(BACKENDS["compiled"], input_shape=(3, 224, 224), threads=threads, device=torch.device(device))
    found = {
        "timm": stock,
        "ours, training form": ours,
        "ours, deploy form": deploy,
        "timm, compiled": compiled(stock),
        "ours, deploy form, compiled": compiled(ours.fuse()),
    }
    if device == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            for name, net in (("timm, ONNX Runtime", stock), ("ours, deploy form, ONNX Runtime", deploy)):
                file = Path(folder) / "model.onnx"
                export_onnx(net, file, input_shape=(3, 224, 224), batch=BATCH)
                session = onnx_session(file, threads)
                found[name] = lambda images, session=session: torch.from_numpy(
                    session.run(None, {"images": images.numpy()})[0]
                )
    return found


def step(net: nn.Module, images: Tensor, labels: Tensor, device: str) -> None:
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(images), labels).backward()
    wait(device)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def forward(run: Any, images: Tensor, device: str) -> Tensor:
    out = run(images)
    wait(device)
    return out


def measure(name: str, device: str, threads: int, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    stock = timm.create_model(name).to(device)
    ours = EfficientVit(EfficientVitConfig(**SIZES[name])).to(device)
    ours.load_state_dict(to_flex_keys(stock.state_dict()))
    images, labels = torch.randn(BATCH, 3, 224, 224, device=device), torch.randint(0, 1000, (BATCH,), device=device)
    steps = {"timm": partial(step, stock, images, labels, device), "ours": partial(step, ours, images, labels, device)}
    stock.train(), ours.train()
    training = interleave(steps, warmup=2, rounds=10, seconds=seconds)
    stock.eval(), ours.eval()
    with torch.inference_mode():
        runs = {
            form: partial(forward, run, images, device) for form, run in forms(stock, ours, device, threads).items()
        }
        expected = runs["timm"]()
        worst = max(float((run() - expected).abs().max() / expected.abs().max()) for run in runs.values())
        inference = interleave(runs, warmup=2, rounds=15, seconds=seconds)
    result = {}
    for kind, times in (("inference", inference), ("training", training)):
        result[kind] = {
            t.model: {
                "images_per_second": round(t.images_per_second, 1),
                "speedup": round(t.speedup, 2),
                "interval": [round(x, 2) for x in t.speedup_interval],
            }
            for t in timings_of(times, "", BATCH)
        }
    return result | {"largest_difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", default=["efficientvit_m0", "efficientvit_m2", "efficientvit_m5"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each form")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = {
        "command": "python benchmarks/efficientvit_speed.py --device " + args.device,
        "batch_size": BATCH,
        "models": {name: measure(name, args.device, args.threads, args.seconds) for name in args.models},
    } | origin(args.threads, ("torch", "timm", "onnxruntime"), args.device)
    keep(record, args.out)


if __name__ == "__main__":
    main()
