"""Our EfficientViT against timm's with the same weights: inference in several forms, and a training step, in one run.

    python benchmarks/efficientvit_speed.py --out docs/efficientvit_speed.json

Random images of 224 px, one at a time and in batches of 16. All forms of a network are timed in turns, in an order
drawn for each round; medians are reported, as images per second, and as the median over the rounds of timm's time over
the form's in the same round. Beside them the limit of the deploy form in eager mode: its convolutions alone. ONNX
Runtime is timed after the others. For an idle machine.
"""

import argparse
import copy
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
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
from prune_realloc.results.bench import timings_of
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import onnx_session
from prune_realloc.results.turns import Call, interleave

BATCHES = (1, 16)
TRAINING = 16
"""Images of a training step."""
SHAPE = (3, 224, 224)
REFERENCE, DEPLOY, LIMIT = "timm", "ours, deploy form", "its convolutions alone"


def forms(stock: nn.Module, ours: EfficientVit, images: Tensor, threads: int) -> dict[str, Callable[[Tensor], Any]]:
    """Name -> a function of the images; the first is the reference."""
    compiled = partial(BACKENDS["compiled"], input_shape=SHAPE, threads=threads, device=images.device)
    return {
        REFERENCE: stock,
        "ours, training form": ours,
        DEPLOY: ours.fuse(),
        "timm, compiled": compiled(stock),
        f"{DEPLOY}, compiled": compiled(ours.fuse()),
    }


def in_onnx_runtime(net: nn.Module, images: Tensor, threads: int) -> Callable[[Tensor], Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(net, file, input_shape=SHAPE, batch=len(images))
        session = onnx_session(file, threads)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def only_layers(net: nn.Module, images: Tensor) -> Callable[[], None]:
    """The convolutions and linear layers of a pass alone, each in the layout that is faster."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def record(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append((layer, args[0].clone()))  # it may be a view of what is changed in place

    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    net(images)
    for hook in hooks:
        hook.remove()
    calls = [faster_layout(layer, rows) for layer, rows in seen]

    def run() -> None:
        for call in calls:
            call()

    return run


def faster_layout(layer: nn.Module, rows: Tensor) -> Call:
    """The layer on its input, channels last or not."""
    planes = copy.deepcopy(layer).to(memory_format=torch.contiguous_format)
    ways = [partial(layer, rows), partial(planes, rows.contiguous())]
    times = interleave(dict(zip("ab", ways, strict=True)), warmup=2, rounds=10, seconds=0.0)
    return min(zip(times.values(), ways, strict=True), key=lambda way: median(way[0]))[1]


def inference(stock: nn.Module, ours: EfficientVit, images: Tensor, threads: int, seconds: float) -> dict[str, Any]:
    """Every form, and the limit; how far their outputs are apart."""
    torch.compiler.reset()
    stock.eval(), ours.eval()
    named = forms(stock, ours, images, threads)
    runs = {form: partial(forward, run, images) for form, run in named.items()}
    expected = runs[REFERENCE]()
    outs = [run() for run in runs.values()]
    layers = only_layers(named[DEPLOY], images)
    times = interleave(runs | {LIMIT: layers}, warmup=3, rounds=15, seconds=seconds)
    over = median(whole / alone for whole, alone in zip(times[DEPLOY], times[LIMIT], strict=True))
    if images.device.type == "cpu":
        # after the others: threads of two runtimes that wait for work take the processor from each other
        sessions = {
            REFERENCE: in_onnx_runtime(stock, images, threads),
            DEPLOY: in_onnx_runtime(ours.fuse(), images, threads),
        }
        in_turns = {f"{name}, ONNX Runtime": partial(run, images) for name, run in sessions.items()}
        outs += [run() for run in in_turns.values()]
        times |= interleave(in_turns, warmup=3, rounds=15, seconds=seconds)
    rounds = min(map(len, times.values()))
    found = summary({name: taken[:rounds] for name, taken in times.items()}, len(images))
    worst = max(float((out - expected).abs().max() / expected.abs().max()) for out in outs)
    return {"forms": found, "over_limit": round(over, 2), "largest_difference": worst}


def training(stock: nn.Module, ours: EfficientVit, images: Tensor, seconds: float) -> dict[str, Any]:
    labels = torch.randint(0, 1000, (len(images),), device=images.device)
    stock.train(), ours.train()
    steps = {"timm": partial(step, stock, images, labels), "ours": partial(step, ours, images, labels)}
    return summary(interleave(steps, warmup=2, rounds=10, seconds=seconds), len(images))


def step(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(images), labels).backward()
    wait(images.device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def forward(run: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    out: Tensor = run(images)
    wait(images.device)
    return out


def summary(times: Mapping[str, Sequence[float]], batch: int) -> dict[str, Any]:
    return {
        timing.model: {
            "images_per_second": round(timing.images_per_second, 1),
            "speedup": round(timing.speedup, 2),
            "interval": [round(bound, 2) for bound in timing.speedup_interval],
        }
        for timing in timings_of(times, "", batch)
    }


def measure(name: str, device: str, threads: int, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    stock = timm.create_model(name).to(device)
    ours = EfficientVit(EfficientVitConfig(**SIZES[name])).to(device)
    ours.load_state_dict(to_flex_keys(stock.state_dict()))
    images = torch.randn(max(BATCHES), *SHAPE, device=device)
    with torch.inference_mode():
        passes = {batch: inference(stock, ours, images[:batch], threads, seconds) for batch in BATCHES}
    return {"inference": passes, "training": training(stock, ours, images[:TRAINING], seconds)}


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
        "command": shlex.join(["python", *sys.argv]),
        "models": {name: measure(name, args.device, args.threads, args.seconds) for name in args.models},
    } | origin(args.threads, ("torch", "timm", "onnxruntime"), args.device)
    keep(record, args.out)


if __name__ == "__main__":
    main()
