"""An analysis of a made-up network whose numbers a reader can work out by hand."""

from typing import Any

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term

TERMS = (
    Term(component="qk", sites=("embed", "blocks.0.heads", "blocks.0.qk"), params=2, macs=20),
    Term(component="v", sites=("embed", "blocks.0.heads", "blocks.0.v"), params=1, macs=10),
    Term(component="ffn", sites=("embed", "blocks.0.ffn"), params=2, macs=20),
    Term(component="head", params=7, macs=5),
)
WIDTHS = {"embed": 4, "blocks.0": 1, "blocks.0.heads": 2, "blocks.0.qk": 2, "blocks.0.v": 2, "blocks.0.ffn": 4}


def make_toy_analysis(**changes: Any) -> Analysis:
    scores = {
        "embed": np.array([1.0, 2.0, 3.0, 4.0]),
        "blocks.0": np.array([0.5]),
        "blocks.0.heads": np.array([0.5, 0.25]),
        "blocks.0.qk": np.array([8.0, 1.0, 0.5, 6.0]),
        "blocks.0.v": np.array([4.0, 4.0, 4.0, -1.0]),
        "blocks.0.ffn": np.array([0.1, 0.2, 3.0, 9.0]),
    }
    damage = {n: np.linspace(1.0, 0.0, WIDTHS[n] + 1) for n in WIDTHS}
    values: dict[str, Any] = dict(
        scores=scores,
        damage=damage,
        widths=WIDTHS,
        groups={n: 2 if n[-2:] in ("qk", ".v") else 1 for n in WIDTHS},
        terms=TERMS,
        scorer="fisher",
        unit="nats",
        samples=8,
        seed=0,
        model={"architecture": "toy"},
        data={"name": "d", "labels": "given"},
        stability={"ffn": 0.9},
        loss=0.5,
        top1=0.75,
        notes=("n",),
        versions={"torch": "2"},
    )
    return Analysis(**(values | changes))
