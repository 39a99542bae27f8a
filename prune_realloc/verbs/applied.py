"""What a recipe made of a network, and its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prune_realloc.core.cost import Cost
from prune_realloc.pruning.ridge import Explained
from prune_realloc.pruning.units import Units
from prune_realloc.recipe.document import Recipe
from prune_realloc.results.bench import Bench
from prune_realloc.results.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One number, before and after."""

    source: float
    achieved: float


@dataclass(frozen=True, kw_only=True)
class Control:
    """The network of the same budget whose widths are uniform, made as the pruned one was."""

    cost: Cost
    evaluation: Evaluation | None
    """On the images that the pruned one was measured on."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a recipe made of a network. What was not measured is None."""

    network: nn.Module
    """The pruned one, on the CPU."""
    units: Mapping[str, Units]
    """Site of the pruned network -> which units of the source its units are."""
    recipe: Recipe
    """As it was carried out: with its plan."""
    source_cost: Cost
    """What the network cost before."""
    cost: Cost
    """What it costs now."""
    source_bytes: int
    """Size of the source's weights in a file."""
    bytes: int
    """Size of the pruned network's weights in a file."""
    evaluation: Evaluation | None
    """The pruned network on images, against its source."""
    timing: Bench | None
    """Both networks in turns."""
    notes: tuple[str, ...]
    """What must be known of it."""
    score: Pair | None = None
    """The caller's measure; larger is better."""
    loss: Pair | None = None
    """Mean of the caller's loss over the batches."""
    taken: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """What the run went by, as an analysis has it."""
    explained: Explained | None = None
    """What the halves of the images say of the refit; None: no weights were fitted."""
    control: Control | None = None
    """Where it was asked for, and made to judge the pruned one by."""

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        found, done = self.evaluation, self.recipe.plan
        own = {"score": self.score, "loss": self.loss}
        assert done is not None
        time = done.latency
        control = {} if self.control is None else {"control": self._outcome(self.control.cost, self.control.evaluation)}
        return {
            "requested": {name: requested for name, (_, requested, _) in done.limits().items()} or None,
            **self._outcome(self.cost, found),
            "bytes": _pair(self.source_bytes, self.bytes),
            "samples": 0 if found is None else found.samples,
            "predicted_damage": done.damage,
            "explained": self.explained and dataclasses.asdict(self.explained),
            "predicted_ms": time and _pair(time.source_ms, time.achieved_ms),
            "latency": None if self.timing is None else [dataclasses.asdict(t) for t in self.timing.timings],
            "faster": None if self.timing is None else list(self.timing.verdicts()),
            "notes": list(self.notes),
            "taken": dict(self.taken),
            **{name: _pair(pair.source, pair.achieved) for name, pair in own.items() if pair is not None},
            **control,
        }

    def _outcome(self, cost: Cost, found: Evaluation | None) -> dict[str, Any]:
        """What a network costs and how good it is, beside the source."""
        costs = {
            kind.name: _pair(self.source_cost.of(kind.name), cost.of(kind.name)) for kind in dataclasses.fields(Cost)
        }
        if found is None:
            return costs | {"top1": None, "agreement": None, "kl": None}
        top1 = None if found.top1 is None else _pair(found.source_top1, found.top1)
        return costs | {"top1": top1, "agreement": found.agreement, "kl": found.kl}


def _pair(source: float | None, achieved: float) -> dict[str, float | None]:
    return {"source": source, "achieved": achieved}
