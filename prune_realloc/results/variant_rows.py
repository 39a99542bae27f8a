"""The rows that an emitted network and its control have in tables and on their pages."""

from __future__ import annotations

from prune_realloc.results.columns import COST_COLUMNS
from prune_realloc.results.variant import CONTROL, REALLOCATED, Variant

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


def component_shares(variant: Variant, kind: str) -> dict[str, tuple[float, float]]:
    """Component -> its percentage of one kind of cost in the control, and in the reallocated network."""
    parts = variant.components()
    control, realloc = (
        {part: 100 * cost.of(kind) / sum(c.of(kind) for c in costs.values()) for part, cost in costs.items()}
        for costs in (parts[CONTROL], parts[REALLOCATED])
    )
    return {part: (control[part], realloc[part]) for part in control}


def component_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Component, then for each kind of cost: share in the control, share in the reallocated network, difference."""
    shares = [component_shares(variant, kind.name) for kind in COST_COLUMNS]
    rows = []
    for part in shares[0]:
        pairs = [of_kind[part] for of_kind in shares]
        cells = [(f"{before:.1f} %", f"{after:.1f} %", f"{after - before:+.1f}") for before, after in pairs]
        rows.append((COMPONENTS[part], *(cell for three in cells for cell in three)))
    return rows


def width_rows(variant: Variant) -> list[tuple[str, ...]]:
    """Place, width of the control, width of the reallocated network, reason."""
    return [(place, str(w.control), str(w.width), w.reason) for place, w in variant.network.widths.items()]
