"""Our EfficientViT against timm's with the same weights: inference in several forms, and a training step, in one run.

    python benchmarks/efficientvit_speed.py --out docs/efficientvit_speed.json

Random images of 224 px, one at a time and in batches of 16. All forms of a network are timed in turns, in an order
drawn for each round; medians are reported, as images per second, and as the median over the rounds of timm's time over
the form's in the same round. Beside them the limit of the deploy form in eager mode: its convolutions alone. ONNX
Runtime is timed after the others: both files in turns, and by medians against timm in eager mode. For an idle machine,
and with the environment that docs/benchmarks.md names under "What page faults cost": timm's class gives memory back.
"""

import argparse
import copy
import shlex
import sys
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
from prune_realloc.results.page_faults import memory_is_kept
from prune_realloc.results.turns import Call, interleave, stopwatch_for

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
    stopwatch = stopwatch_for(rows.device)
    times = interleave(dict(zip("ab", ways, strict=True)), warmup=2, rounds=10, seconds=0.0, stopwatch=stopwatch)
    return min(zip(times.values(), ways, strict=True), key=lambda way: median(way[0]))[1]


def inference(stock: nn.Module, ours: EfficientVit, images: Tensor, threads: int, seconds: float) -> dict[str, Any]:
    """Every form, and the limit; how far their outputs are apart."""
    torch.compiler.reset()
    stock.eval(), ours.eval()
    named = forms(stock, ours, images, threads)
    runs: dict[str, Call] = {form: partial(run, images) for form, run in named.items()}
    expected = named[REFERENCE](images)
    worst = max(apart(run(), expected) for run in runs.values())
    runs[LIMIT] = only_layers(named[DEPLOY], images)
    times = interleave(runs, warmup=3, rounds=15, seconds=seconds, stopwatch=stopwatch_for(images.device))
    over = median(whole / alone for whole, alone in zip(times[DEPLOY], times[LIMIT], strict=True))
    found = summary(times, len(images))
    if images.device.type == "cpu":
        # after the others: threads of two runtimes that wait for work take the processor from each other
        backend = partial(BACKENDS["onnxruntime"], input_shape=SHAPE, threads=threads, device=images.device)
        sessions = {REFERENCE: partial(backend(stock), images), DEPLOY: partial(backend(ours.fuse()), images)}
        worst = max(worst, *(apart(torch.from_numpy(run()[0]), expected) for run in sessions.values()))
        eager = median(times[REFERENCE])
        for name, each in summary(interleave(sessions, warmup=3, rounds=15, seconds=seconds), len(images)).items():
            over_eager = round(each["images_per_second"] * eager / len(images), 2)
            in_turns = {"over_timm_there": each["speedup"], "interval_there": each["interval"]}
            found[f"{name}, ONNX Runtime"] = each | {"speedup": over_eager, "interval": None} | in_turns
    return {"forms": found, "over_limit": round(over, 2), "largest_difference": worst}


def apart(out: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    return float((out - expected).abs().max() / expected.abs().max())


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
        "memory_kept": memory_is_kept(),
        "training_batch": TRAINING,
        "models": {name: measure(name, args.device, args.threads, args.seconds) for name in args.models},
    } | origin(args.threads, ("torch", "timm", "onnxruntime"), args.device)
    keep(record, args.out)


if __name__ == "__main__":
    main()
