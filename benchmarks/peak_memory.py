"""The formula of the memory of a pass against what is alive in one, and against what the process takes.

    python benchmarks/peak_memory.py --out docs/peak_memory.json

timm's networks with random weights, 224 px, float32, eager, batch 1 and 8; each as it is and cut to `CUTS` random
widths. *alive*: weights, buffers, images and the tensors of the pass, counted one by one. *process*: by how much the
resident memory of a fresh process grows that reads the network from a file and runs it once.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
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
    parser.add_argument("--out", type=Path)
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)  # file of a network, batch
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.process:
        print(_resident(*args.process))
        return
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
            process = _of_a_process(net, batch)
            row = {"network": name, "cut": number, "batch": batch, "formula": formula, "alive": alive}
            row |= {"process": process, "error": round(formula / alive - 1, 4)}
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            yield row


def _of_a_process(net: torch.nn.Module, batch: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(net, Path(folder) / "net.pt")
        command = [sys.executable, __file__, "--process", f"{folder}/net.pt", str(batch)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def _resident(file: str, batch: str) -> int:
    """Bytes by which this process grows at most."""
    _ = torch.ones(64, 64) @ torch.ones(64, 64)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    net = torch.load(file, weights_only=False)  # our own file
    net(torch.zeros(int(batch), *SHAPE))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


if __name__ == "__main__":
    main()
