"""The formula of the memory of a pass against what is alive in one.

    python benchmarks/peak_memory.py --out docs/peak_memory.json

timm's networks with random weights, 224 px, float32, eager, batch 1 and 8; each as it is and cut to `CUTS` random
widths. *alive*: weights, buffers, images and the tensors of the pass, counted one by one.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from record import origin, put

from prune_realloc import cut_to_widths, find_sites
from prune_realloc.core.memory import Memory
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, inner_of
from prune_realloc.pruning.sites import widths
from prune_realloc.results.latency_draws import drawn_widths
from prune_realloc.runtime.memory import peak_memory
from prune_realloc.tracing.memory import memory_of

NETWORKS = ("deit_tiny_patch16_224", "deit_base_patch16_224", "swin_tiny_patch4_window7_224", "efficientvit_m2")
BATCHES, CUTS, SEED = (1, 8), 3, 0
SHAPE = (3, 224, 224)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in NETWORKS for row in _rows(name)]
    command = f"python benchmarks/peak_memory.py --out {args.out}"
    put({"command": command, **origin(1, ("torch", "timm")), "rows": rows}, args.out)


def _networks(name: str) -> Iterator[tuple[torch.nn.Module, dict[str, int]]]:
    """The network, then its cuts; each with its widths."""
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    whole = widths(find_sites(net))
    yield net, whole
    draws = drawn_widths(find_sites(net), family_of(net).describe(net).terms, SEED)
    for drawn in islice(draws, CUTS):
        yield cut_to_widths(net, drawn).eval(), {**whole, **drawn}


def _rows(name: str) -> Iterator[dict[str, Any]]:
    memory: Memory | None = None
    for number, (net, own) in enumerate(_networks(name)):
        if memory is None:
            sites, source = find_sites(net), inner_of(adopted(net))
            memory, terms = memory_of(source, (1, *SHAPE), sites), family_of(source).describe(source).terms
            assert memory is not None
        for batch in BATCHES:
            formula = memory.peak(terms, own, batch)
            alive = peak_memory(net, torch.zeros(batch, *SHAPE))
            row = {"network": name, "cut": number, "batch": batch, "formula": formula, "alive": alive}
            row |= {"error": round(formula / alive - 1, 4)}
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            yield row


if __name__ == "__main__":
    main()
