"""Networks whose queries and values were cut to unlike widths, before and after their attention was kept fused.

    python benchmarks/fused_attention.py --out docs/fused_attention.json

timm's DeiT-S and Swin-T at 224 px with random weights, eager, float32, one core. Before: PyTorch's own choice for
DeiT-S, and products for the windows of Swin-T. All variants of a network take turns. Then attention alone, three ways,
by which the rule of `runtime/attention.py` was chosen.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from record import keep, origin
from torch import Tensor, nn

from prune_realloc import find_sites
from prune_realloc.models import free_attention, free_window_attention
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.results.bench import timings_of
from prune_realloc.results.turns import interleave
from prune_realloc.runtime.attention import products

DEIT = {"uniform": {"qk": 32, "v": 32, "ffn": 744}, "unlike": {"qk": 16, "v": 64, "ffn": 768}}
KERNELS = ((6, 16, 64, 1, 197), (6, 16, 64, 16, 197), (6, 48, 64, 1, 197), (6, 48, 64, 16, 197))
KERNELS += ((6, 48, 64, 32, 197), (6, 48, 64, 1, 577), (6, 64, 32, 4, 577))  # 7, 2 and 8 million logits
KERNELS += ((6, 64, 32, 16, 577), (6, 16, 64, 16, 98), (6, 16, 64, 16, 64), (1, 16, 16, 16, 49), (1, 16, 16, 16, 196))
"""Heads, width of Q/K, width of V, images, tokens."""
SWIN = {"uniform": {"qk": 16, "v": 16}, "unlike": {"qk": 16, "v": 32}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each network and batch size")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        *_measured("deit_small_patch16_224", DEIT, args.seconds),
        *_measured("swin_tiny_patch4_window7_224", SWIN, args.seconds),
    ]
    command = "python benchmarks/fused_attention.py --out docs/fused_attention.json"
    kernels = [_kernel(*shape, args.seconds) for shape in KERNELS]
    keep({"command": command, **origin(1, ("torch", "timm")), "rows": rows, "kernels": kernels}, args.out)


def _measured(name: str, patterns: dict[str, dict[str, int]], seconds: float) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    source = timm.create_model(name).eval()
    cuts = {pattern: _cut(source, widths) for pattern, widths in patterns.items()}
    for batch_size in (1, 8):
        images = torch.randn(batch_size, 3, 224, 224)
        calls: dict[str, Any] = {"source": partial(source, images)}
        for pattern, net in cuts.items():
            calls |= {f"{pattern}, before": partial(_before, net, images), f"{pattern}, after": partial(net, images)}
        with torch.inference_mode():
            times = interleave(calls, warmup=1, rounds=5, seconds=seconds)
        for timing in timings_of(times, "eager", batch_size):
            network = {"network": name, "variant": timing.model, "widths": patterns.get(timing.model.split(",")[0])}
            numbers = {"ms": round(timing.median_ms, 1), "speedup": round(timing.speedup, 2)}
            yield network | {"batch": batch_size, "rounds": timing.rounds} | numbers


def _kernel(heads: int, qk: int, v: int, images: int, tokens: int, seconds: float) -> dict[str, Any]:
    """Speed of attention alone, padded to one width and as products, over PyTorch's own choice."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(images, heads, tokens, width, generator=draw) for width in (qk, qk, v))
    pads = [(0, max(qk, v) - width) for width in (qk, qk, v)]
    calls = {
        "torch": partial(F.scaled_dot_product_attention, query, key, value),
        "padded": lambda: F.scaled_dot_product_attention(*map(F.pad, (query, key, value), pads), scale=qk**-0.5),
        "products": partial(products, query, key, value),
    }
    with torch.inference_mode():
        times = interleave(calls, warmup=3, rounds=5, seconds=seconds)
    speed = {timing.model: round(timing.speedup, 2) for timing in timings_of(times, "eager", images)}
    return {"heads": heads, "qk": qk, "v": v, "images": images, "tokens": tokens} | speed


def _cut(source: nn.Module, widths: dict[str, int]) -> nn.Module:
    """Each site of these axes at its width, the others whole."""
    return cut_to_widths(source, {site.name: widths.get(site.axis, site.width) for site in find_sites(source)})


def _before(net: nn.Module, images: Tensor) -> object:
    with _attention_by(F.scaled_dot_product_attention, products):
        return net(images)


@contextmanager
def _attention_by(whole: Any, windows: Any) -> Iterator[None]:
    name = "scaled_dot_product_attention"
    with mock.patch.object(free_attention, name, whole), mock.patch.object(free_window_attention, name, _bare(windows)):
        yield


def _bare(function: Any) -> Any:
    """Without dropout, which stands among the arguments before the scale."""
    return lambda q, k, v, mask, dropout_p, *, scale: function(q, k, v, mask, scale)


if __name__ == "__main__":
    main()
