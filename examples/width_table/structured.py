"""The allocations that follow from rules: those that people use, and those that were tried here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocations import LEAST, M0, TARGET, Allocation, Proportions, widest
from rules import channels_of, curves_of, law, predicted

from prune_realloc import Analysis, InputError, emit
from prune_realloc.core.cost import Cost
from prune_realloc.planning.control import uniform_control


def structured(budget: int, analyses: Mapping[str, Analysis]) -> dict[str, Allocation]:
    """By name: of rules that people use, of the least width inside blocks, and of each analysis.

    NViT's rule (Yang et al., CVPR 2023) is for blocks of equal channels; carried over, the first and the last stage are
    its two ends, with half of the Q/K width of the middle and FFN ratio 3 in place of 6. Its fewer heads are left out.
    """
    rules = {
        "paper": Proportions(M0, (8, 8, 8), (1, 1, 1), (2, 2, 2)).at_budget(budget),
        "floors": Proportions(M0, (8, 8, 8), (1, 1, 1), (1, 1, 1)).at_budget(budget),
        "nvit": Proportions(M0, (0.5, 1, 0.5), (1, 1, 1), (3, 6, 3)).at_budget(budget),
        "least": LEAST.at_budget(budget),
    }
    if missed := [name for name, found in rules.items() if found is None]:
        raise InputError(f"budget {budget:,}: rounding misses it for {', '.join(missed)}; give another")
    found = {"uniform": Allocation.of(uniform_control(TARGET, Cost(macs=budget, params=0), "macs"))}
    found |= {name: allocation for name, allocation in rules.items() if allocation is not None}
    found["law"] = widest(law, budget)
    macs = {"macs": budget}
    for name, analysis in analyses.items():
        found[f"emitted-{name}"] = emitted(analysis, macs, rule="kept")
        flat = {"embed": {"move": False}}  # channels in the uniform proportions; of every analysis the same
        found["unmeasured"] = emitted(analysis, macs, rule="unmeasured", rules=flat)
        found[f"rule-stream-{name}"] = emitted(analysis, macs, rule="stream")
        found["rule-unmeasured"] = emitted(analysis, macs, rule="unmeasured")
        stream = predicted(curves_of(analysis), ("embed",), channels_of(analysis))
        found[f"stream-{name}"] = widest(stream, budget)
    return found


def emitted(analysis: Analysis, cost: Mapping[str, int], **wanted: Any) -> Allocation:
    """What `emit` makes of an analysis, at so much of one kind of cost."""
    target = TARGET.model_dump(exclude_unset=True) | dict(cost) | wanted
    return Allocation.of(emit(analysis, target=target, timed=False)[0].configs()["realloc"])
