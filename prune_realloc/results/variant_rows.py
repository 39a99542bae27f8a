"""The rows that an emitted network and its controls have in tables and on their pages."""

from __future__ import annotations

from collections.abc import Sequence

from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.variant import CONTROL, REALLOCATED, UNMEASURED, Variant

COMPONENTS = {
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
"""What a component of an EfficientViT is called."""


def cost_rows(variant: Variant, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each kind of cost of the networks, and where it was measured their latency at each batch size."""
    costs = [variant.configs()[name].cost for name in names]
    rows = [(kind.noun, *(f"{cost.of(kind.name):,}" for cost in costs)) for kind in COST_COLUMNS]
    timings = () if variant.latency is None else variant.latency.timings
    median = {(t.batch_size, t.model): t.median_ms for t in timings}
    for size in sorted({t.batch_size for t in timings}):
        rows.append((f"ms at batch {size}", *(f"{median[size, name]:.2f}" for name in names)))
    return rows


def component_shares(variant: Variant, kind: str) -> dict[str, dict[str, float]]:
    """Network -> component -> its percentage of one kind of cost."""
    return {
        name: {part: 100 * cost.of(kind) / sum(c.of(kind) for c in costs.values()) for part, cost in costs.items()}
        for name, costs in variant.components().items()
    }


def component_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Component, then for each kind of cost: share in the control, share in the reallocated network, difference; and,
    where there is one, share in the unmeasured network."""
    shares = [component_shares(variant, kind.name) for kind in COST_COLUMNS]
    rows = []
    for part in shares[0][CONTROL]:
        cells = [COMPONENTS[part]]
        for of_kind in shares:
            before, after, *rest = (parts[part] for parts in of_kind.values())
            cells += [f"{before:.1f} %", f"{after:.1f} %", f"{after - before:+.1f}", *(f"{s:.1f} %" for s in rest)]
        rows.append(tuple(cells))
    return rows


def width_columns(variant: Variant) -> list[str]:
    """Headings of `width_rows`, but for the last, the reason."""
    return ["place", *variant.configs()]


def width_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Place, its width in each network in the order of `configs`, reason."""
    rows = []
    for place, width in variant.network.widths.items():
        widths = {CONTROL: width.control, REALLOCATED: width.width, UNMEASURED: width.unmeasured}
        rows.append((place, *(str(widths[name]) for name in variant.configs()), width.reason))
    return rows
