"""What is lost without labels and training, by today's default and with each further part, over draws of the images.

    python examples/train_hierarchical.py --out runs/hierarchical
    python benchmarks/keep_more.py --runs runs/hierarchical --out docs/keep_more.json

The shipped ViT and the networks of `--runs` (folders, by name); every draw takes other calibration images of the
training set, the 10,000 test images give the result. What is there already is not measured again, so a run that was
stopped goes on, and more budgets, draws or variants can be asked for later. What an older version of the package loses
is measured with `--variants default --label NAME` while that version is the one that Python finds. `--torch-pruning`
adds what is left of its modes and settings, as benchmarks/hierarchical.py has them, at 0.7, 0.5 and 0.3: the mode that
is right on most of the test images, for one draw.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hierarchical import theirs
from record import origin, put
from torch import Tensor, nn
from torch_pruning_baseline import evaluate, load_tensors

from prune_realloc import InputError, apply, build_recipe, load_model
from prune_realloc.pruning.sites import find_sites
from prune_realloc.results.evaluate import divergence
from prune_realloc.verbs.applied import Applied

TUNED, JOINT, ROUNDS = "tuned", "heads and blocks too", "in two rounds"
VARIANTS = ("default", TUNED, JOINT, ROUNDS)
"""Tuned: 200 steps. The last two are no recipe of their own: all axes that the network has, named; and `apply` of what
`apply` made at the root of the share, so that damage is read anew on the cut network."""
RIVAL = "torch-pruning's best"
SHIPPED, HEADLESS = "demo", "-headless"
"""A ViT's name with this ending: it is cut without its classifier, which then reads the features as a frozen probe."""


def measured(
    name: str, folder: Path | None, data: str, images: dict[str, int], variant: str, share: float, test: list[Tensor]
) -> dict[str, Any]:
    """One row.

    Args:
        test: images, labels, and the source's log-probabilities of them.
    """
    row: dict[str, Any] = {"network": name, "variant": variant, "requested": share} | images
    source = {"source": {"ckpt": str(folder)}} if folder is not None else {}
    wanted = source | {"data": {"name": data} | images}
    started = time.perf_counter()
    try:
        if name.endswith(HEADLESS):
            done = _cut_without_head({"data": wanted["data"]}, variant, share, load_model(ckpt=folder))
        else:
            done = _cut(wanted, variant, share)
    except InputError as error:  # a budget that the floors forbid is a result
        return row | {"error": str(error)}
    seconds = time.perf_counter() - started
    loss, top1 = evaluate(done.network, *test[:2])
    return row | {
        "keep_macs": round(done.cost.macs / done.source_cost.macs, 4),
        "top1": round(top1, 2),
        "loss": round(loss, 4),
        "kl": float(f"{float(divergence(test[2], log_probabilities(done.network, test[0])).mean()):.3g}"),
        "predicted": done.summary()["predicted_damage"],
        "seconds": round(seconds, 1),
    }


def rivals(name: str, net: nn.Module, data: str, samples: int, test: list[Tensor]) -> Iterator[dict[str, Any]]:
    """A row for each share that torch-pruning reaches."""
    started = time.perf_counter()
    found = [row for row in theirs(net, load_tensors(net, data, "train", samples), (test[0], test[1])) if "top1" in row]
    seconds = round(time.perf_counter() - started, 1)
    for share in dict.fromkeys(row["requested"] for row in found):
        best = max((row for row in found if row["requested"] == share), key=lambda row: row["top1"])
        about = {"network": name, "variant": RIVAL, "requested": share, "samples": samples, "seed": 0}
        yield about | best | {"kl": None, "predicted": None, "seconds": seconds}


def _cut(wanted: dict[str, Any], variant: str, share: float) -> Applied:
    if variant == ROUNDS:
        half_way = _cut(wanted, "default", share**0.5)
        budget = {"macs": int(share * half_way.source_cost.macs)}
        done = _applied({"data": wanted["data"], "budget": budget}, half_way.network)
        return dataclasses.replace(done, source_cost=half_way.source_cost)
    more: dict[str, Any] = {"compensate": {"tune": 200}} if variant == TUNED else {}
    if variant == JOINT:
        net = load_model(ckpt=wanted.get("source", {}).get("ckpt"))
        more = {"axes": sorted({site.axis for site in find_sites(net)})}
    return _applied(wanted | more | {"budget": {"keep_macs": share}})


def _cut_without_head(wanted: dict[str, Any], variant: str, share: float, net: Any) -> Applied:
    """Features of another width are none that the probe can read, so an allocation must leave the last stream whole."""
    probe = net.get_classifier()
    net.reset_classifier(0)
    more: dict[str, Any] = {"compensate": {"tune": 200}} if variant == TUNED else {}
    done = _applied(wanted | more | {"budget": {"keep_macs": share}}, net)
    done.network.head = probe
    return done


def _applied(recipe: dict[str, Any], model: nn.Module | None = None) -> Applied:
    return apply(build_recipe(recipe), model=model, timed=False, eval_samples=100, batch_size=64)


@torch.no_grad()
def log_probabilities(net: nn.Module, images: Tensor) -> Tensor:
    """(B, C), in double precision."""
    return torch.cat([net(batch).double().log_softmax(1) for batch in images.split(256)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--samples", type=int, nargs="+", default=[512], help="calibration images")
    parser.add_argument("--variants", nargs="+", default=VARIANTS[:2], choices=VARIANTS)
    parser.add_argument("--torch-pruning", action="store_true")
    parser.add_argument("--label", help="call the rows so instead of by their variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("networks", nargs="*", default=[SHIPPED, "swin", "efficientvit_msra", "efficientvit_mit"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = json.loads(args.out.read_text()) if args.out.exists() else {"dense": {}, "rows": []}
    record |= origin(args.threads) | {
        "command": "python benchmarks/keep_more.py --runs runs/hierarchical --out docs/keep_more.json"
    }
    keys = ("network", "variant", "requested", "samples", "seed")
    have = {tuple(row[key] for key in keys) for row in record["rows"]}
    for name in args.networks:
        folder = None if name.removesuffix(HEADLESS) == SHIPPED else args.runs / name.removesuffix(HEADLESS)
        net = load_model(ckpt=folder)
        images, labels = load_tensors(net, args.data, "test")
        test = [images, labels, log_probabilities(net, images)]
        record["dense"][name] = round(evaluate(net, images, labels)[1], 2)
        if args.torch_pruning and not any(row["network"] == name and row["variant"] == RIVAL for row in record["rows"]):
            record["rows"] += rivals(name, net, args.data, args.samples[0], test)
            put(record, args.out)
        for seed, share, samples, variant in product(range(args.draws), args.budgets, args.samples, args.variants):
            if (name, args.label or variant, share, samples, seed) in have:
                continue
            row = measured(name, folder, args.data, {"samples": samples, "seed": seed}, variant, share, test)
            row["variant"] = args.label or variant
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            record["rows"].append(row)
            put(record, args.out)


if __name__ == "__main__":
    main()
