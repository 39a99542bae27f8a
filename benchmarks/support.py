"""Which of timm's networks can be analysed, cut, refitted, saved and exported: each is tried, with random weights.

    python benchmarks/support.py --out docs/support.json
    python benchmarks/support.py --out docs/support.json --only levit_128s,pit_ti_224 --jobs 2

The names are those of benchmarks/architectures.txt, each with arguments for `timm.create_model` that make it small. A
process of its own tries each; networks that the file has already and that are not named by `--only` stay as they are.
Norms have random statistics and scales, so that what is cut is not zero by chance.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from record import origin, put
from torch import Tensor, nn

from prune_realloc import InputError, apply, build_recipe, load_pruned
from prune_realloc.core.structure import Site
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.hooks import masked
from prune_realloc.pruning.law import AxisRefused
from prune_realloc.pruning.sites import find_sites
from prune_realloc.results.export import export_onnx
from prune_realloc.runtime.networks import measured_macs

NAMES = Path(__file__).parent / "architectures.txt"
AXES = ("block", "heads", "qk", "v", "ffn", "hidden", "embed")
LIMIT = 900
"""Seconds for one network."""
HALF = (0.495, 0.5)
"""What counts as half of the multiply-adds."""

Row = dict[str, Any]


def listed() -> dict[str, dict[str, Any]]:
    """Name -> arguments."""
    found = {}
    for line in NAMES.read_text().splitlines():
        name, *args = line.split()
        found[name] = {key: json.loads(value) for key, value in (arg.split("=") for arg in args)}
    return found


def network(name: str, args: dict[str, Any]) -> Any:
    """timm's network with random weights, in which no norm is the identity, no scale is zero, nor all of a matrix."""
    torch.manual_seed(0)
    net: Any = timm.create_model(name, **args).eval()
    net.origin = {"source": name, "source_args": args}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in net.named_parameters():
            if p.ndim == 1:
                scales = key.endswith("weight") or "gamma" in key
                p.copy_(torch.rand(p.shape, generator=generator) + 0.5 if scales else 0.1 * noise(p, generator))
            elif p.abs().max() < 1e-6:  # as in the classifier of Hiera
                p.copy_(0.02 * noise(p, generator))
        for key, buffer in net.named_buffers():
            if key.endswith("running_mean"):
                buffer.copy_(0.1 * noise(buffer, generator))
            elif key.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return net


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tried(row: Row, key: str, step: Callable[[], Any]) -> None:
    """What a step gives, or why it fails."""
    try:
        row[key] = step()
    except Exception as error:  # the table says so
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        row[key] = {"error": kind + (str(error).splitlines() or [""])[0][:300]}


def examined(name: str, args: dict[str, Any]) -> Row:
    """All that is said of one network."""
    net = network(name, args)
    images = noise(torch.empty(2, *net.pretrained_cfg["input_size"]), torch.Generator().manual_seed(2))
    with torch.no_grad():
        net(images[:1])
    row: Row = {"class": type(net).__name__, "args": args, "params": sum(p.numel() for p in net.parameters())}
    before, start = peak(), time.perf_counter()
    tried(row, "sites", lambda: found_sites(net))
    row |= {"seconds": round(time.perf_counter() - start, 1), "memory": round(max(peak() - before, 0.0))}
    if "error" in row["sites"]:
        return row
    sites = find_sites(net)
    row["cut"] = {axis: one for axis in AXES if (one := axis_cut(net, sites, axis, images)) is not None}
    tried(row, "half", lambda: halved(net, row, images))
    return row


def found_sites(net: Any) -> Row:
    sites = find_sites(net)
    family = family_of(net)
    structure = family.describe(net)
    params = dict(net.named_parameters())
    whole = {name: reason for name, reason in structure.fixed.items() if params[name].ndim > 1}
    return {
        "family": family.__name__.rpartition(".")[2],
        "axes": dict(Counter(site.axis for site in sites)),
        "branches": len(structure.branches),
        "fitted": sum(branch.fitted for branch in structure.branches),
        "whole": sum(params[name].numel() for name in whole),
        "reasons": [reason for reason, _ in Counter(whole.values()).most_common(2)],
    }


def kept(site: Site, rng: np.random.Generator) -> np.ndarray:
    """Half of the units of each group."""
    half = max(1, site.width // 2)
    own = [np.sort(rng.choice(site.width, half, replace=False)) for _ in range(site.groups)]
    return np.concatenate([group * site.width + units for group, units in enumerate(own)])


def axis_cut(net: nn.Module, sites: tuple[Site, ...], axis: str, images: Tensor) -> Row | None:
    """How far the network without half of the units of an axis is from the one in which they are masked."""
    own, rng = [site for site in sites if site.axis == axis], np.random.default_rng(0)
    if not own:
        return None
    if axis == "block":
        keep = {site.name: np.arange(number % 2) for number, site in enumerate(own)}
    else:
        keep = {site.name: kept(site, rng) for site in own}
    row: Row = {"notes": sum(bool(site.note) for site in own), "sites": len(own)}
    tried(row, "difference", lambda: difference(net, own, keep, images))
    return row


def difference(net: nn.Module, own: list[Site], keep: dict[str, np.ndarray], images: Tensor) -> float:
    """As a share of the largest output."""
    smaller = cut(net, own, keep)
    with torch.no_grad(), ExitStack() as stack:
        for site in own:
            stack.enter_context(masked(net, site, np.setdiff1d(np.arange(site.units), keep[site.name])))
        expected, found = net(images), smaller(images)
        if found.shape != expected.shape:  # no classifier: the channels of the last stream come out
            expected = expected[:, torch.as_tensor(keep[own[-1].name])]
        return float(f"{float((found - expected).abs().max() / expected.abs().max()):.1e}")


def halved(net: Any, row: Row, images: Tensor) -> Row:
    """Half of the multiply-adds by a plan; then forward, backward, a file, ONNX."""
    whole = measured_macs(net, images[:1])
    smaller, result = planned(net, sorted(set(row["sites"]["axes"]) - {"block"}), images)
    if smaller is None:
        return result
    result["share"] = round(measured_macs(smaller, images[:1]) / whole, 4)
    tried(result, "backward", lambda: backward(smaller, images))
    tried(result, "loaded", lambda: loaded(smaller, images))
    tried(result, "onnx", lambda: exported(smaller, images))
    return result


def planned(net: Any, every: list[str], images: Tensor) -> tuple[Any, Row]:
    """The network at half, of the default axes where they are enough, refitted where that works; and how it went."""
    result: Row = {}
    for axes in (None, every):
        for fit in (True, False):
            done: Row = {}
            tried(done, "smaller", lambda: reached(net, images, axes, fit))  # noqa: B023  # called at once
            if not isinstance(done["smaller"], dict):
                smaller, left = done["smaller"]
                how = {"axes": "default" if axes is None else "all", "without": left, "refitted": fit}
                return smaller, how | result
            if done["smaller"]["error"].startswith("macs: "):  # the plan itself cannot be
                break
            result["refit"] = done["smaller"]
    return None, done["smaller"] | result


def reached(net: Any, images: Tensor, axes: list[str] | None, fit: bool) -> tuple[nn.Module, list[str]]:
    """The network, and the axes without which it was reached, as the message says that refuses them."""
    if axes is not None:
        return reached_by(net, images, axes, fit)
    done = planned_by({}, net, images, fit)
    return done.network, [note.split()[1] for note in done.notes if " is left whole: " in note]


def reached_by(net: Any, images: Tensor, axes: list[str], fit: bool) -> tuple[nn.Module, list[str]]:
    try:
        return planned_by({"axes": axes}, net, images, fit).network, []
    except AxisRefused as error:
        rest = [axis for axis in axes if axis != error.axis]
        if rest in ([], axes):
            raise
        smaller, left = reached_by(net, images, rest, fit)
        return smaller, [error.axis, *left]


def planned_by(named: dict[str, Any], net: Any, images: Tensor, fit: bool) -> Any:
    asked: dict[str, Any] = {
        "budget": {"keep_macs": 0.5},
        "scorer": "magnitude",
        "compensate": {"rotate": False} if fit else dict.fromkeys(("rotate", "refit", "mean_shift"), False),
    }
    return apply(build_recipe(asked | named), model=net, batches=[images] if fit else None, timed=False)


def backward(net: nn.Module, images: Tensor) -> bool:
    """Does every parameter get a gradient that is finite?"""
    net.requires_grad_().zero_grad()
    net(images).square().sum().backward()
    return all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def loaded(net: Any, images: Tensor) -> float:
    """Largest difference of the outputs of a process that loads the file; every tensor is the same, bit by bit."""
    from prune_realloc import save_pruned

    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        save_pruned(net, folder / "net")
        state = {"images": images, "expected": net.eval()(images), "tensors": net.state_dict()}
        torch.save(state, folder / "state.pth")
        run = subprocess.run([sys.executable, __file__, "--load", name], capture_output=True, text=True, timeout=LIMIT)
        if run.returncode:
            raise RuntimeError(run.stderr.strip().splitlines()[-1])
        return float(run.stdout)


def load(folder: Path) -> None:
    saved = torch.load(folder / "state.pth", weights_only=True)
    net = load_pruned(folder / "net")
    tensors = net.state_dict()
    assert tensors.keys() == saved["tensors"].keys()
    assert all(torch.equal(tensors[name], saved["tensors"][name]) for name in tensors)
    with torch.no_grad():
        print(float((net(saved["images"]) - saved["expected"]).abs().max()))


def exported(net: nn.Module, images: Tensor) -> float:
    with tempfile.TemporaryDirectory() as name:
        _, chans, height, width = images.shape
        found = export_onnx(net, Path(name) / "net.onnx", input_shape=(chans, height, width))
        assert found.difference is not None
        return float(f"{found.difference:.1e}")


def in_own_process(name: str) -> Row:
    """Of one network."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {LIMIT} s"}
    if run.returncode:
        return {"error": (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1][:300]}
    row: Row = json.loads(run.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one")
    parser.add_argument("--load", type=Path)
    args = parser.parse_args()
    if args.load:
        load(args.load)
    elif args.one:
        torch.set_num_threads(1)
        print(json.dumps(examined(args.one, listed()[args.one])))
    else:
        measure(args.out, args.only.split(",") if args.only else [], args.jobs)


def measure(out: Path, only: list[str], jobs: int) -> None:
    """Every network that the file does not have yet, or those that are named."""
    record: Row = json.loads(out.read_text()) if out.exists() else {"networks": {}}
    rows = record["networks"]
    names = only or [name for name in listed() if name not in rows]
    command = "python benchmarks/support.py --out docs/support.json"
    about = {"command": command, **origin(1, ("torch", "timm", "torch-pruning", "onnx", "onnxruntime"))}
    with ThreadPoolExecutor(jobs) as pool:  # each waits for a process of its own
        for name, row in zip(names, pool.map(in_own_process, names), strict=True):
            rows[name] = row
            print(name, json.dumps(row), flush=True)
            found = {key: rows[key] for key in listed() if key in rows}
            put(about | {"networks": found}, out)


if __name__ == "__main__":
    main()
