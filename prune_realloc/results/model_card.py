"""The Markdown page beside an emitted network: cost, where the width went and why, and how to retrain it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prune_realloc.models.efficientvit_stock import stock_args

if TYPE_CHECKING:
    from prune_realloc.results.variant import Variant


NAMES = {
    "qk": "Q/K",
    "v": "V",
    "proj": "projection",
    "ffn": "FFN",
    "dwconv": "depthwise convolutions",
    "position": "attention biases",
    "merging": "patch merging",
    "stem": "stem",
    "head": "classifier",
}


def model_card(variant: Variant, name: str, folder: str, source: str | None, inherited: str | None) -> str:
    """The page of one of the two networks of a variant; `inherited`: whose weights it starts with."""
    network, target = variant.network, variant.recipe.target
    assert target is not None
    configs = variant.configs()
    other = next(key for key in configs if key != name)
    what = "The uniform control: Q = K = V = embed / heads, one FFN ratio, one growth from stage to stage"
    if name == "realloc":
        what = (
            f"The widths of this network follow from what pruning kept of its source{f' ({source})' if source else ''}"
        )
    start = "It is untrained: the weights come with retraining."
    if inherited is not None:
        start = f"It starts with what survives of the weights of {inherited}, to be retrained."
    lines = [
        f"# EfficientViT, {'reallocated' if name == 'realloc' else 'uniform control'}",
        "",
        f"{what}. Depth, heads and kernels are those of {target.like}. {start}",
        "",
        "## Cost",
        "",
        *_table(
            ("", name, other),
            [
                ("parameters", *(f"{configs[key].cost.params:,}" for key in (name, other))),
                ("multiply-adds", *(f"{configs[key].cost.macs:,}" for key in (name, other))),
                *_latency_rows(variant, (name, other)),
            ],
        ),
        *_latency_words(variant),
        f"Budget: {network.requested:,} {'multiply-adds' if network.kind == 'macs' else 'parameters'}.",
        "",
        "## Where it is spent",
        "",
        "Share of the whole, and what changed against the control, in percentage points.",
        "",
        *_table(
            ("component", "params control", "params realloc", "change", "MACs control", "MACs realloc", "change"),
            component_rows(variant),
        ),
        "## Widths and reasons",
        "",
        "For Q/K and V in each head. What pruning kept is read at "
        f"{_reading(variant)}; a multiplier that is the same for all widths meets the budget.",
        "",
        *_table(("place", "control", "realloc", "reason"), width_rows(variant)),
        "## What the stock class cannot express",
        "",
        *_lost(variant, name),
        "",
        "## Use and retrain",
        "",
        "```python",
        "import prune_realloc, timm",
        "",
        f'model = timm.create_model("local-dir:{folder}", pretrained={inherited is not None})',
        "```",
        "",
        "The same for both networks; with the paper's recipe (AdamW, 300 epochs, 2048 images a step) on all GPUs:",
        "",
        "```bash",
        f"accelerate launch -m prune_realloc train {folder} --data path/to/images --preset paper -o runs/{name}",
        "```",
    ]
    return "\n".join(lines) + "\n"


def component_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Component, then for params and MACs: share in the control, share in the reallocated network, difference."""
    parts = variant.components()
    control, realloc = parts["control"], parts["realloc"]
    rows = []
    for part in control:
        cells = [NAMES[part]]
        for field in ("params", "macs"):
            shares = [
                100 * getattr(costs[part], field) / sum(getattr(c, field) for c in costs.values())
                for costs in (control, realloc)
            ]
            cells += [f"{shares[0]:.1f} %", f"{shares[1]:.1f} %", f"{shares[1] - shares[0]:+.1f}"]
        rows.append(tuple(cells))
    return rows


def width_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Place, width of the control, width of the reallocated network, reason."""
    return [(place, str(w.control), str(w.width), w.reason) for place, w in variant.network.widths.items()]


def _reading(variant: Variant) -> str:
    budget = variant.recipe.budget
    if budget is None:
        return "the widths of its recipe"
    kind, value = next(iter(budget.model_dump(exclude_none=True).items()))
    return f"{kind} {value:g}"


def _latency_rows(variant: Variant, names: Sequence[str]) -> list[tuple[str, ...]]:
    if variant.latency is None:
        return []
    sizes = sorted({t.batch_size for t in variant.latency.timings})
    by_name = {(t.batch_size, t.model): t for t in variant.latency.timings}
    return [(f"ms at batch {size}", *(f"{by_name[size, name].median_ms:.2f}" for name in names)) for size in sizes]


def _latency_words(variant: Variant) -> list[str]:
    if variant.latency is None:
        return []
    b = variant.latency
    return [
        f"Latency: deploy form, random weights, {b.device_name} ({b.device}), {b.threads} threads, torch "
        f"{b.versions['torch']}; median. {' '.join(f'{line}.' for line in b.verdicts())}",
        "",
    ]


def _lost(variant: Variant, name: str) -> list[str]:
    args, lost = stock_args(variant.configs()[name])
    shown = ", ".join(f"{key}={value}" for key, value in args.items())
    if not lost:
        return [f"Nothing; this is timm's `EfficientVitMsra({shown})`."]
    return [f"Nearest in timm: `EfficientVitMsra({shown})`. It differs:", "", *(f"- {line}" for line in lost)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = [" | ".join(row) for row in (columns, ["---"] * len(columns), *rows)]
    return [*(f"| {cells} |" for cells in line), ""]
