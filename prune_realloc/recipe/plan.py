"""What a plan says: the decision about each site, and what all of them cost together. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, StrictStr

from prune_realloc.core.cost import CostKind
from prune_realloc.core.names import Runtime
from prune_realloc.recipe.cost_fields import CostPart, KindName, amount_type, per_kind
from prune_realloc.recipe.fields import Conflict, Count, Location, Natural, Number, Part


class SitePlan(Part):
    """The decision about one site."""

    width: Natural
    """Units that stay; for qk and v in each head. For a whole block 1 or 0."""
    of: Count
    """Units of the source."""
    groups: Count | None = None
    """How many heads, FFNs or groups of channels have so many each; set where no site of heads tells it."""
    reason: StrictStr
    """Why this many."""

    def _conflicts(self) -> Iterator[Conflict]:
        if self.width > self.of:
            yield Conflict(("width",), f"{self.width} is more than the source has; at most {self.of}")


class Limit(Part):
    """A further budget that the plan keeps."""

    requested: Count
    """The budget in numbers."""
    source: Count
    """What the source costs."""


class PlannedLatency(Part):
    """The time of one batch, as a latency table has it, and what the table holds for."""

    requested_ms: Number
    """The budget."""
    achieved_ms: Number
    """Of the planned network."""
    source_ms: Number
    """Of the source."""
    batch: Count
    """Images at a time."""
    runtime: Runtime
    """What runs the network."""
    threads: Count
    """CPU threads."""
    device: StrictStr
    """What the processor or the graphics card calls itself."""
    error: Number
    """Median relative error of the table at a network that it was not fitted to."""


class PlannedPeak(Part):
    """What inference of a batch holds at once, on a CPU, in bytes."""

    requested: Count
    """The budget."""
    achieved: Count
    """By the planned network."""
    source: Count
    """By the source."""
    batch: Count
    """Images at a time."""


def _cost_of_plan(kind: CostKind) -> tuple[Any, Any]:
    return amount_type(kind), Field(description=f"{kind.noun.capitalize()} of the planned network{kind.scope}.")


@per_kind("{}", _cost_of_plan)
class _PlanCosts(CostPart):
    """What a planned network costs."""

    kind: KindName
    """Kind of cost that requested, achieved and source count."""
    requested: Count | None = None
    """The budget in numbers; not set where rules alone decided."""
    achieved: Count
    """What the planned network costs."""
    source: Count
    """What the source costs."""


class Plan(_PlanCosts):
    """What the planner decided; written by plan, carried out by apply."""

    also: dict[KindName, Limit] = {}
    """Kind of cost -> a further budget."""
    latency: PlannedLatency | None = None
    """Where the budget limits time."""
    peak: PlannedPeak | None = None
    """Where the budget limits memory."""
    damage: Number | None = None
    """Predicted loss that the cut adds, in nats per image."""
    bound: Number | None = None
    """No plan at this budget has less predicted damage than this, in nats per image."""
    sites: dict[StrictStr, SitePlan]
    """Site name -> decision: embed, blocks.0.qk, blocks.0.ffn.1 for a block's second, or blocks.3 for a whole block."""

    def limits(self) -> dict[str, tuple[Location, float, float]]:
        """What a budget limits -> the field that has the limit, the limit, and what the source takes."""
        found: dict[str, tuple[Location, float, float]] = {}
        if self.requested is not None:
            found[self.kind] = ("requested",), self.requested, self.source
        found |= {
            kind: (("also", kind, "requested"), limit.requested, limit.source) for kind, limit in self.also.items()
        }
        if self.latency is not None:
            found["latency"] = ("latency", "requested_ms"), self.latency.requested_ms, self.latency.source_ms
        if self.peak is not None:
            found["peak"] = ("peak", "requested"), self.peak.requested, self.peak.source
        return found

    def _conflicts(self) -> Iterator[Conflict]:
        for name, site in self.sites.items():
            whole = ".".join(name.split(".")[:2])
            if name == whole and name.startswith("blocks."):
                continue
            block_goes = whole in self.sites and "." in name and not self.sites[whole].width
            if not site.width and not block_goes:
                yield Conflict(("sites", name, "width"), "is 0, but its block stays; keep at least 1")
            if site.width and block_goes:
                yield Conflict(("sites", name, "width"), f"is {site.width}, but its block {whole} goes; it must be 0")
