"""The numbers of an analysis, ready for JSON and tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.ranking import retention

BUDGETS = (0.7, 0.5, 0.3)
"""Shares of the prunable multiply-adds at which the picture shows what is kept."""


def summary(analysis: Analysis) -> dict[str, Any]:
    """The numbers behind table and page, ready for JSON.

    A site's `share` is its part of all positive scores of the sites on the same axis level (`qk`, `v`, `ffn`
    together; `heads` and `embed` each by themselves, because their units hold the same weights again).
    `units90` is how many of the best units carry 90 % of the site's positive score.
    """
    comparable = analysis.unit == "nats"
    totals: dict[str, float] = {}
    positive = {name: float(s.clip(min=0).sum()) for name, s in analysis.scores.items()}
    for name, value in positive.items():
        level = _level(name, comparable)
        totals[level] = totals.get(level, 0.0) + value
    sites = {}
    for name, s in analysis.scores.items():
        total = totals[_level(name, comparable)]
        sites[name] = {
            "width": analysis.widths[name],
            "units": len(s),
            "score": float(s.sum()),
            "share": positive[name] / total if total else 0.0,
            "units90": _units_for(s, 0.9),
        }
    cost = analysis.cost()
    return {
        "model": dict(analysis.model),
        "data": analysis.data,
        "scorer": analysis.scorer,
        "unit": analysis.unit,
        "samples": analysis.samples,
        "seed": analysis.seed,
        "loss": analysis.loss,
        "top1": analysis.top1,
        "stability": dict(analysis.stability),
        "sites": sites,
        "retention": {str(b): retention(analysis, b) for b in BUDGETS},
        "components": {name: {"params": c.params, "macs": c.macs} for name, c in analysis.component_costs().items()},
        "params": cost.params,
        "macs": cost.macs,
        "notes": list(analysis.notes),
        "versions": dict(analysis.versions),
    }


def _level(name: str, comparable: bool) -> str:
    axis, _ = site_place(name)
    return "inner" if comparable and axis in INNER_AXES else axis


def _units_for(scores: np.ndarray, share: float) -> int:
    best = np.sort(scores.clip(min=0))[::-1]
    if best.sum() == 0:
        return 0
    return int(np.searchsorted(np.cumsum(best), share * best.sum() * (1 - 1e-12))) + 1
