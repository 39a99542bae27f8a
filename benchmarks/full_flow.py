"""From a checkpoint on disk to a pruned one, everything included, beside torch-pruning's flows by Taylor and Hessian.

    python benchmarks/full_flow.py --out docs/full_flow.json

timm's DeiT-B with random weights at 224 px, 256 random images with labels, half of the multiply-adds, two threads. Ours
is `apply` by default: it scores, takes moments, plans, cuts and refits, and does the last three for the plans that it
judges its own by. torch-pruning: gradients (a backward pass a batch for Taylor, one an image for Hessian, which its
score needs), graph, ranking and pruning of what lies inside blocks, as `time_torch_pruning` has it; no search over its
settings, and no refit. A row that the file has is not measured again.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from record import origin, put, resumed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch_pruning_baseline import Setting, build_pruner, score_gradients, sync_attention_

from prune_realloc import apply, build_recipe
from prune_realloc.runtime.networks import measured_macs

MODEL, SHAPE, CLASSES = "deit_base_patch16_224", (3, 224, 224), 1000
BATCH = 16
Flow = Callable[[nn.Module, Tensor, Tensor], nn.Module]


def ours(net: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    batches = [*zip(images.split(BATCH), labels.split(BATCH), strict=True)]
    return apply(build_recipe({"budget": {"keep_macs": 0.5}}), model=net, batches=batches, timed=False).network


def theirs(score: str) -> Flow:
    def flow(net: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
        for block in net.blocks:
            block.attn.fused_attn = False
        gradients = score_gradients(net, images, labels, score)
        for name, parameter in net.named_parameters():
            parameter.grad = gradients.get(name)
        example = torch.zeros(1, *SHAPE)
        pruner = build_pruner(net, example, score=score, ranked=False, setting=Setting(), ratio=0.5)
        for group in pruner.step(interactive=True):
            group.prune()
        sync_attention_(net, pruner)
        return net

    return flow


FLOWS: dict[str, Flow] = {"ours": ours, "taylor": theirs("taylor"), "hessian": theirs("hessian")}


def measured(flow: Flow, weights: Path, images: Tensor, labels: Tensor, whole: int) -> dict[str, Any]:
    """Seconds from file to file, and what is left."""
    started = time.perf_counter()
    net = timm.create_model(MODEL).eval()
    net.load_state_dict(load_file(weights))
    smaller = flow(net, images, labels)
    save_file({name: tensor.contiguous() for name, tensor in smaller.state_dict().items()}, weights.with_name("out"))
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "keep_macs": round(_macs(smaller.eval()) / whole, 3)}


@torch.no_grad()
def _macs(net: nn.Module) -> int:
    return measured_macs(net, torch.zeros(1, *SHAPE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(args.images, *SHAPE), torch.randint(CLASSES, (args.images,))
    about = {"command": f"python benchmarks/full_flow.py --out {args.out}", **origin(args.threads)}
    record = resumed(args.out, {"rows": []}, about | {"model": MODEL, "images": args.images})
    with tempfile.TemporaryDirectory() as folder:
        weights, net = Path(folder) / "net", timm.create_model(MODEL).eval()
        whole = _macs(net)
        save_file(net.state_dict(), weights)
        have = {row["flow"] for row in record["rows"]}
        for name in (name for name in FLOWS if name not in have):
            record["rows"].append({"flow": name, **measured(FLOWS[name], weights, images, labels, whole)})
            put(record, args.out)
            print(record["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
