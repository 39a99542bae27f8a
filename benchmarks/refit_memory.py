"""What a refit moves through the temporary folder and holds in memory, and how long damage curves take.

    python benchmarks/refit_memory.py deit_base_patch16_224 --images 16 --out docs/refit_memory.json

Random weights and images, which change neither. Half of the units inside each block and an eighth of the stream go, so
that the layers that read the stream are fitted too. What is written grows with the images and is counted; memory is
that of the process beyond what it takes with both networks. Moments are random ones of full rank. Seconds are of the
processor: on a machine with other work they are what a quiet one takes, nearly.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from record import keep, origin

from prune_realloc.core.structure import Site
from prune_realloc.data.batches import Batch
from prune_realloc.families import family_of
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import damage_curves
from prune_realloc.pruning.moments import LayerMoments, LinearMoments, LogitMoments
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.sites import find_sites
from prune_realloc.pruning.streams import Streams

IMAGES, BATCH = 1024, 8
KEPT = {"qk": 0.5, "v": 0.5, "ffn": 0.5, "embed": 0.875}


class _Counted(Streams):
    """Notes what was written, and how large the file was."""

    written_at_end = size_at_end = 0

    def __exit__(self, *error: object) -> None:
        _Counted.written_at_end, _Counted.size_at_end = self.written, self.file.seek(0, 2)
        super().__exit__(*error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = timm.create_model(args.model).eval()
    found = {"refit": refit_of(net, args.images), "damage_curves_cpu_seconds": curves_of(net)}
    command = f"python benchmarks/refit_memory.py {args.model} --images {args.images} --threads {args.threads}"
    keep({"command": command, **origin(args.threads, ("torch", "timm")), "model": args.model, **found}, args.out)


def refit_of(net: Any, images: int) -> dict[str, Any]:
    """Gigabytes of a refit, and its seconds."""
    sites, kept = find_sites(net), {}
    for site in sites:
        if share := KEPT.get(site.axis):
            units = np.arange(int(site.width * share))
            kept[site.name] = np.concatenate([units + group * site.width for group in range(site.groups)])
    pruned = cut(net, sites, kept)
    before, start = resident(), time.process_time()
    with mock.patch("prune_realloc.pruning.refit.Streams", _Counted):
        refit_(pruned, net, sites, kept, {}, list(random_batches(images)), ridge=True)
    scale = IMAGES / images
    return {
        "images": images,
        "cpu_seconds": round(time.process_time() - start, 1),
        "memory_gb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9, 2),
        f"file_gb_at_{IMAGES}_images": round(scale * _Counted.size_at_end / 1e9, 2),
        f"written_gb_at_{IMAGES}_images": round(scale * _Counted.written_at_end / 1e9, 1),
    }


def random_batches(images: int) -> Any:
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        places, nothing = torch.arange(start, start + count), torch.full((count,), -1)
        yield Batch(places, torch.randn(count, 3, 224, 224), nothing, tuple(range(count)))


def resident() -> int:
    """Bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def curves_of(net: Any) -> float:
    sites, structure = find_sites(net), family_of(net).describe(net)
    moments, scores = random_moments(net, sites), {site.name: np.ones(site.units) for site in sites}
    start = time.process_time()
    damage_curves(net, sites, structure, moments, scores)
    return round(time.process_time() - start, 1)


def random_moments(net: Any, sites: tuple[Site, ...]) -> LayerMoments:
    """Moments of full rank; layers of one shape have the same."""
    structure, by_name = family_of(net).describe(net), {site.name: site for site in sites}
    squares: dict[int, torch.Tensor] = {}

    def square(size: int) -> torch.Tensor:
        if size not in squares:
            x = torch.randn(size, size, dtype=torch.float64)
            squares[size] = x @ x.T / size + 0.1 * torch.eye(size, dtype=torch.float64)
        return squares[size]

    def moment(size: int, out: int) -> LinearMoments:
        zeros = torch.zeros(size, dtype=torch.float64)
        return LinearMoments(197, torch.ones(197, dtype=torch.float64), square(out), zeros, square(size))

    width = by_name["embed"].units
    writers = {key: moment(by_name[each.site].units, width) for key, each in structure.writers().items()}
    heads = {site.name: square(site.width).expand(site.groups, -1, -1) for site in sites if site.axis == "qk"}
    logits = {name: LogitMoments(197, each, each) for name, each in heads.items()}
    return LayerMoments(writers, {name: moment(width, width) for name in structure.readers()}, logits)


if __name__ == "__main__":
    main()
