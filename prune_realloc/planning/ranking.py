"""All units ranked together: which share of each site one threshold keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import unit_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, site_place


def retention(analysis: Analysis, keep_macs: float, axes: Iterable[str] = INNER_AXES) -> dict[str, float]:
    """Share of each site's units that one threshold on score per multiply-add keeps.

    The units of all sites of `axes` are ranked together; the best are kept until they hold `keep_macs` of the
    multiply-adds of these units. This is the picture of the paper's pruning study, before floors and rounding.

    Args:
        keep_macs: in (0, 1].
    """
    if not 0 < keep_macs <= 1:
        raise InputError(f"keep_macs must be above 0 and at most 1, got {keep_macs}")
    names = [name for name in analysis.scores if site_place(name)[0] in axes]
    if not names:
        return {}
    # a unit of qk or v is one of a head, its width counts per head: so a unit's cost is shared by the groups
    each = {name: unit_cost(analysis.terms, analysis.widths, name, "macs") / analysis.groups[name] for name in names}
    cost = np.concatenate([np.full(len(analysis.scores[name]), each[name]) for name in names])
    worth = np.concatenate([analysis.scores[name] for name in names]) / cost
    owner = np.concatenate([np.full(len(analysis.scores[name]), i) for i, name in enumerate(names)])
    order = np.argsort(-worth, kind="stable")
    kept = order[np.cumsum(cost[order]) <= keep_macs * cost.sum() * (1 + 1e-12)]
    counts = np.bincount(owner[kept], minlength=len(names))
    return {name: float(counts[i] / len(analysis.scores[name])) for i, name in enumerate(names)}
