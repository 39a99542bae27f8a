"""Write docs/benchmarks.md from the measurements beside it.

python benchmarks/tables.py
"""

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def origin(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"`{record['command']}`, {record['machine']}, {versions}, {record['date']}."


def ablation(record: dict[str, Any]) -> str:
    rows = [
        f"| {axis} | {scorer} | " + " | ".join(f"{row[key]:.2f}" for key in COLUMNS) + " |"
        for axis, scorers in record["table"].items()
        for scorer, row in scorers.items()
    ]
    head = "| axis | scorer | change, scored images | size, scored images | change, other images | size, other images |"
    return "\n".join([head, "| --- | --- | ---: | ---: | ---: | ---: |", *rows])


COLUMNS = ("change_same", "size_same", "change_other", "size_other")


def render(scores: dict[str, Any], speed: dict[str, Any]) -> str:
    median = {who: sorted(times)[len(times) // 2] for who, times in speed["seconds"].items()}
    return f"""# Benchmarks

This page is written by `python benchmarks/tables.py` from the JSON files beside it.

## Speed and memory of an analysis

{speed["model"]}, {speed["images"]} images at 224 px in batches of {speed["batch_size"]}.
Finding the sites is part of our time, building the graph part of torch-pruning's. `make bench` measures it again.

| | bare forward + backward | analysis (all gradient scores) | torch-pruning's Hessian importance |
| --- | ---: | ---: | ---: |
| seconds (median) | {median["bare"]:.2f} | {median["ours"]:.2f} | {median["hessian"]:.2f} |
| peak memory of the process, MiB | {speed["peak_mib"]["bare"]} | {speed["peak_mib"]["ours"]} | |

Analysis over bare: time {speed["time_over_bare"]:.2f} (goal: at most 1.0),
peak memory {speed["peak_over_bare"]:.2f} (goal: at most 1.1).
torch-pruning's Hessian importance over ours: {speed["hessian_over_ours"]:.1f} (goal: at least 5).

{origin(speed)}

Not measured: the same on a GPU (`--device cuda`), for want of one.

## Scorers against brute force

The shipped ViT, {scores["images"]} calibration images; {scores["units"]} units of every site (all heads) are masked
one at a time, and the change of the mean loss is measured on the scored images and on as many other training images.
Spearman's rank correlation of each scorer with the change, and with its size.

{ablation(scores)}

Read: on the scored images `loss` predicts the change nearly perfectly, and |mean(s)| (`taylor`) its size. On other
images the sign of so small a change is mostly noise for every scorer; its size is predicted best by `fisher`, the
default. Goals, on the scored images: `loss` at least 0.95 for qk, v and ffn and 0.9 for heads, `taylor` (size) at
least 0.85 for qk, v and ffn.

The loss changes of this table were measured in single precision, in which those of dead FFN units drown; that is why
`loss` stops at {scores["table"]["ffn"]["loss"]["change_same"]:.2f} for ffn. The script now measures them in double:
with 4 FFN units of every block it gives 1.00 (`change`, `loss`). The whole table in double is yet to be run.

{origin(scores)}

## The shipped ViT

DeiT's layout: 12 blocks, 64 channels, 4 heads, 28 px images in 4 px patches, 604,938 parameters, stored in half
precision. Trained from scratch on the 60,000 training images of Fashion-MNIST by
`python examples/train_demo_vit.py --compile --out demo_vit` (seed 0, 16 epochs, the first 12 with half of the patches
dropped; about an hour on 2 cores). It is right on {TOP1} of the 10,000 official test images.
"""


TOP1 = "88.30 %"
"""Printed by examples/train_demo_vit.py at its end."""


def main() -> None:
    records = [json.loads((DOCS / f"{name}.json").read_text()) for name in ("ablation", "analyze_speed")]
    (DOCS / "benchmarks.md").write_text(render(*records))


if __name__ == "__main__":
    main()
