"""The numbers of an analysis, ready for JSON and tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.ranking import retention

BUDGETS = (0.7, 0.5, 0.3)
"""Shares of the prunable multiply-adds at which the picture shows what is kept."""


def summary(analysis: Analysis) -> dict[str, Any]:
    """The numbers behind table and page, ready for JSON.

    A site's `share` is its part of all positive scores of the sites on the same axis level (`qk`, `v`, `ffn`,
    `hidden` together; `heads` and `embed` each by themselves, because their units hold the same weights again).
    `units90` is how many of the best units carry 90 % of the site's positive score.
    """
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
        "sites": _sites(analysis),
        "retention": {str(b): retention(analysis, b) for b in BUDGETS},
        "components": {name: asdict(part) for name, part in analysis.component_costs().items()},
        **asdict(analysis.cost()),
        "notes": list(analysis.notes),
        "versions": dict(analysis.versions),
        "taken": dict(analysis.taken),
    }


def _sites(analysis: Analysis) -> dict[str, dict[str, float]]:
    """Site name -> its width, units, score, share and concentration."""
    comparable = analysis.unit == "nats"
    positive = {name: float(scores.clip(min=0).sum()) for name, scores in analysis.scores.items()}
    totals: dict[str, float] = {}
    for name, value in positive.items():
        level = _level(name, comparable)
        totals[level] = totals.get(level, 0.0) + value
    sites: dict[str, dict[str, float]] = {}
    for name, scores in analysis.scores.items():
        total = totals[_level(name, comparable)]
        sites[name] = {
            "width": analysis.widths[name],
            "units": len(scores),
            "score": float(scores.sum()),
            "share": positive[name] / total if total else 0.0,
            "units90": _units_for(scores, 0.9),
        }
    return sites


def _level(name: str, comparable: bool) -> str:
    """What a site shares its total with: the other axes inside blocks where their scores compare, else its axis."""
    axis, _ = site_place(name)
    return "inner" if comparable and axis in INNER_AXES else axis


def _units_for(scores: np.ndarray, share: float) -> int:
    """How many of the best units carry `share` of all positive scores."""
    best = np.sort(scores.clip(min=0))[::-1]
    if best.sum() == 0:
        return 0
    return int(np.searchsorted(np.cumsum(best), share * best.sum() * (1 - 1e-12))) + 1
