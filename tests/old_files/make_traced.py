"""Write the folder data/traced/ as the package of commit b92b804 wrote it; see README.md."""

import json
from pathlib import Path

import numpy as np
import timm
import torch

from prune_realloc import find_sites, save_pruned
from prune_realloc.pruning.cut import cut

NETWORK = {"img_size": 32, "base_dims": [8, 8, 8], "heads": [1, 2, 2], "depth": [1, 1, 1], "num_classes": 3}


def main() -> None:
    """Cut twice, so that sites have other names than those of the source."""
    torch.manual_seed(0)
    net = timm.create_model("pit_ti_224", **NETWORK).eval()
    net.origin = {"source": "pit_ti_224", "source_args": NETWORK}
    for axes in (("ffn", "v"), ("heads", "embed")):
        sites = find_sites(net)
        net = cut(net, sites, {s.name: np.arange(1, s.units, 2) for s in sites if s.axis in axes and s.units > 1})
    save_pruned(net, "traced")
    with torch.no_grad():
        logits = net(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin())
    Path("traced/logits.json").write_text(json.dumps(logits.tolist(), indent=1) + "\n")


if __name__ == "__main__":
    main()
