"""Time and memory of an analysis against a bare training pass and torch-pruning's Hessian importance, in one run.

    python benchmarks/analyze_speed.py --out docs/analyze_speed.json

DeiT-S at 224 px with fresh weights (their values change no time), random images, the same batches for everyone. The
three are timed in turn, round after round; medians are reported. Peak memory comes from a process of its own each.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import torch_pruning as tp
from record import keep, origin
from torch import nn

from prune_realloc.data.batches import Batch
from prune_realloc.pruning.gates import gate_moments
from prune_realloc.pruning.objectives import LABELS
from prune_realloc.pruning.sites import find_sites

NAME = "deit_small_patch16_224"


def make_batches(count: int, size: int, device: str) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.arange(size),
            torch.randn(size, 3, 224, 224, generator=generator).to(device),
            torch.randint(0, 1000, (size,), generator=generator).to(device),
            (),
        )
        for _ in range(count)
    ]


def bare(model: nn.Module, batches: list[Batch]) -> None:
    for batch in batches:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch.images), batch.labels).backward()


def ours(model: nn.Module, batches: list[Batch]) -> None:
    gate_moments(model, find_sites(model), batches, objective=LABELS)


def hessian(model: nn.Module, batches: list[Batch]) -> None:
    """As torch-pruning's documentation shows it: one backward for each image, then a score for each group."""
    scorer = tp.importance.GroupHessianImportance()
    for batch in batches:
        losses = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            scorer.accumulate_grad(model)
    graph = tp.DependencyGraph().build_dependency(model, batches[0].images[:1], verbose=False)
    for group in graph.get_all_groups(ignored_layers=[model.head]):
        scorer(group)


WORK: dict[str, Callable[[nn.Module, list[Batch]], None]] = {"bare": bare, "ours": ours, "hessian": hessian}


def timed(who: str, model: nn.Module, batches: list[Batch]) -> float:
    if batches[0].images.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    WORK[who](model, batches)
    if batches[0].images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_mib(who: str, device: str) -> float:
    """Highest memory of this process while `who` works on two batches, in MiB."""
    model, batches = timm.create_model(NAME).eval().to(device), make_batches(2, 8, device)
    WORK[who](model, batches)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage: a child inherits its parent's peak there
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=WORK, help="only print the peak memory of one of them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.peak:
        print(peak_mib(args.peak, args.device))
        return
    model = timm.create_model(NAME).eval().to(args.device)
    batches = make_batches(args.batches, 8, args.device)
    for who in ("bare", "ours"):
        timed(who, model, batches[:1])
    seconds: dict[str, list[float]] = {who: [] for who in WORK}
    for turn in range(args.rounds):
        for who in WORK:
            if who != "hessian" or turn < 2:  # it is slow, and two turns show its ratio
                seconds[who].append(timed(who, model, batches))
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    peaks = {}
    for who in ("bare", "ours"):
        command = [sys.executable, __file__, "--peak", who, "--device", args.device, "--threads", str(args.threads)]
        # the allocator's luck moves a single reading by 10 %
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
        peaks[who] = statistics.median(float(run.stdout) for run in runs)
    record = {
        "command": "python benchmarks/analyze_speed.py --device " + args.device,
        "model": NAME,
        "images": 8 * args.batches,
        "batch_size": 8,
        "seconds": {who: [round(t, 3) for t in times] for who, times in seconds.items()},
        "peak_mib": {who: round(mib) for who, mib in peaks.items()},
        "time_over_bare": round(medians["ours"] / medians["bare"], 3),
        "peak_over_bare": round(peaks["ours"] / peaks["bare"], 3),
        "hessian_over_ours": round(medians["hessian"] / medians["ours"], 2),
    } | origin(args.threads, device=args.device)
    keep(record, args.out)


if __name__ == "__main__":
    main()
