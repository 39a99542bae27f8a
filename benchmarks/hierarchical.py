"""Hierarchical networks, cut without any training: ours, with each part on and off, against torch-pruning's best mode.

    python examples/train_hierarchical.py --out runs/hierarchical
    python benchmarks/hierarchical.py --runs runs/hierarchical --out docs/hierarchical.json

A small Swin, an EfficientViT of MSRA and one of MIT, trained on Fashion-MNIST, at 0.7, 0.5 and 0.3 of their
multiply-adds; 512 calibration images of the training set for everyone, the 10,000 test images for the result.
torch-pruning (Taylor scores, in 25 steps) uniformly and in its isomorphic mode, each with and without the streams and
the attentions (what writes a stream is told from our sites); of all that run within a minute, the one with the
lowest loss on the calibration images. The cascade of the MSRA network, whose groups it never finishes, is one opaque
module to it where attentions stay whole.
"""

import argparse
import copy
import json
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from record import origin, put
from torch import Tensor, nn
from torch_pruning_baseline import CLOSE, SLACK, count_macs, evaluate, load_tensors

from prune_realloc import InputError, apply, build_recipe, load_model
from prune_realloc.core.structure import INNER_AXES
from prune_realloc.models.efficientvit_layers import WindowAttention
from prune_realloc.pruning.sites import find_sites

SHARES = (0.7, 0.5, 0.3)
CALIBRATION_IMAGES = 512
PARTS = ("rotate", "refit", "mean_shift")


def only(*parts: str) -> dict[str, Any]:
    """A recipe's compensation with these parts."""
    return {"compensate": {part: part in parts for part in PARTS}}


WHOLE = "rotation and refit, the streams whole"
VARIANTS: dict[str, dict[str, Any]] = {
    "rotation and refit (the default)": {},
    WHOLE: {},  # with all axes that the network has inside its blocks
    "refit": only("refit"),
    "rotation, mean shift": only("rotate", "mean_shift"),
    "mean shift": only("mean_shift"),
    "nothing": only(),
    "rotation and refit, uniform widths": {"allocation": "uniform"},
}
MODES = {"uniform": {}, "isomorphic": {"global_pruning": True, "isomorphic": True}}
MAX_STEPS = 25
SECONDS = 60
"""For one setting of torch-pruning."""


def ours(net: nn.Module, folder: Path, data: str, test: tuple[Tensor, Tensor]) -> Iterator[dict[str, Any]]:
    """A row for each variant and share."""
    inside = sorted({site.axis for site in find_sites(net)} & {*INNER_AXES})
    for (name, values), share in product((VARIANTS | {WHOLE: {"axes": inside}}).items(), SHARES):
        images = {"name": data, "samples": CALIBRATION_IMAGES}
        source = {"ckpt": str(folder)}
        recipe = build_recipe({"budget": {"keep_macs": share}, "source": source, "data": images} | values)
        started = time.perf_counter()
        try:
            done = apply(recipe, timed=False, eval_samples=1000, batch_size=128)
        except InputError as error:  # a budget that the floors forbid is a result
            yield {"variant": name, "requested": share, "error": str(error)}
            continue
        loss, top1 = evaluate(done.network, *test)
        yield {
            "variant": name,
            "requested": share,
            "keep_macs": round(done.cost.macs / done.source_cost.macs, 4),
            "top1": round(top1, 2),
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }


def theirs(net: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Iterator[dict[str, Any]]:
    """A row for each mode and share: the best of its settings by calibration loss, or why none runs."""
    gradients = _gradients(net, *train)
    for mode in MODES:
        best: dict[float, tuple[float, float, nn.Module, dict[str, Any]]] = {}
        errors: list[str] = []
        for stream, attention in product((True, False), repeat=2):
            setting = {"stream": stream, "attention": attention}
            try:
                with limited(SECONDS):
                    found = prune_in_steps(net, train[0][:1], gradients, mode=mode, **setting)
            except Exception as error:  # a crash of torch-pruning is a result
                errors.append(f"{type(error).__name__}: {str(error)[:120]}")
                continue
            for share, (kept, small) in found.items():
                loss = evaluate(small, *train)[0] if abs(kept - share) <= SLACK else float("inf")
                if share not in best or loss < best[share][0]:
                    best[share] = (loss, kept, small, setting)
        for share in SHARES:
            if share not in best or best[share][0] == float("inf"):
                yield {"mode": mode, "requested": share, "error": errors[0] if errors else "no setting came so far"}
                continue
            _, kept, small, setting = best[share]
            loss, top1 = evaluate(small, *test)
            row = {"mode": mode, "requested": share, "keep_macs": round(kept, 4), "top1": round(top1, 2)}
            yield row | {"loss": round(loss, 4)} | setting


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _gradients(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(net)
    for x, y in zip(images.split(128), labels.split(128), strict=True):
        (F.cross_entropy(net(x), y, reduction="sum") / len(labels)).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def prune_in_steps(
    net: nn.Module,
    example: Tensor,
    gradients: Mapping[str, Tensor],
    *,
    mode: str,
    stream: bool,
    attention: bool,
) -> dict[float, tuple[float, nn.Module]]:
    """Target share -> the share reached and the network there: its ratio rises in steps of one pruner."""
    small, whole = copy.deepcopy(net), count_macs(net, example)
    cascades = {n: m for n, m in small.named_modules() if isinstance(m, WindowAttention) and not attention}
    opaque = {n: nn.Conv2d(chans := m.attn.proj[0].in_channels, chans, 1) for n, m in cascades.items()}
    for name, p in small.named_parameters():
        p.grad = gradients[name].clone() if name in gradients else None
    attentions = {n: m for n, m in small.named_modules() if isinstance(getattr(m, "num_heads", None), int)}
    heads = {m.qkv: m.num_heads for m in attentions.values() if isinstance(getattr(m, "qkv", None), nn.Linear)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            _set_in_(small, opaque),
            example,
            tp.importance.TaylorImportance(),
            pruning_ratio=0.98,
            ignored_layers=[*_kept_whole(small, net, stream, attention), *opaque.values()],
            num_heads=heads,
            in_channel_groups={},
            out_channel_groups={},
            prune_head_dims=True,
            iterative_steps=MAX_STEPS,
            **MODES[mode],
        )
    found: dict[float, tuple[float, nn.Module]] = {}
    last = (1.0, copy.deepcopy(net))
    left = sorted(SHARES, reverse=True)
    for _ in range(MAX_STEPS):
        if not left:
            break
        pruner.step()
        for module in attentions.values():
            if isinstance(getattr(module, "qkv", None), nn.Linear) and module.qkv in heads:
                _sync_(module)
        cut = _set_in_(copy.deepcopy(small), cascades)
        share = count_macs(cut, example) / whole
        now = (share, cut)
        while left and share <= left[0] + CLOSE:
            target = left.pop(0)
            found[target] = min((last, now), key=lambda each, to=target: abs(each[0] - to))
        last = now
    return found


def _sync_(attention: Any) -> None:
    """The attributes that timm's attentions reshape by; the softmax scale stays the source's."""
    width = attention.qkv.out_features // 3
    for name, value in (("attn_dim", width), ("head_dim", width // attention.num_heads), ("dim", width)):
        if hasattr(attention, name):
            setattr(attention, name, value)


def _set_in_(net: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The same network with other modules at these names."""
    for name, module in modules.items():
        net.set_submodule(name, module)
    return net


def _kept_whole(small: nn.Module, net: nn.Module, stream: bool, attention: bool) -> list[nn.Module]:
    """The classifier; with `stream` off what writes a stream, with `attention` off all that is in an attention."""
    sites = find_sites(net)
    classifier = [m for m in small.modules() if isinstance(m, nn.Linear) and m.out_features == net.num_classes]
    writers = {
        part.parameter.rpartition(".")[0]
        for site in sites
        for part in site.slices
        if site.axis == "embed" and part.dim == 0
    }
    inside = {
        part.parameter.rpartition(".")[0] for site in sites for part in site.slices if site.axis in ("heads", "qk", "v")
    }
    present = {name for name, _ in small.named_modules()}  # nothing inside of what is opaque
    names = (set() if stream else writers) | (set() if attention else inside)
    return classifier + [small.get_submodule(name) for name in names if name in present]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("networks", nargs="*", default=["swin", "efficientvit_msra", "efficientvit_mit"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = json.loads(args.out.read_text()) if args.out.exists() else {"networks": {}}
    command = "python benchmarks/hierarchical.py --runs runs/hierarchical --out docs/hierarchical.json"
    record |= origin(args.threads) | {"command": command, "calibration": CALIBRATION_IMAGES}
    for name in args.networks:
        folder = args.runs / name
        net = load_model(ckpt=folder)
        test = load_tensors(net, args.data, "test")
        train = load_tensors(net, args.data, "train", CALIBRATION_IMAGES)
        rows = {"dense": round(evaluate(net, *test)[1], 2), "ours": [], "torch_pruning": []}
        for kind, found in (("ours", ours(net, folder, args.data, test)), ("torch_pruning", theirs(net, train, test))):
            for row in found:
                print(name, *(f"{key}={value}" for key, value in row.items()), flush=True)
                rows[kind].append(row)
        record["networks"][name] = rows
        put(record, args.out)


if __name__ == "__main__":
    main()
