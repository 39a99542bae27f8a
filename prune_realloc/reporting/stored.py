"""What the report reads of the numbers that `apply` and `sweep` write."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from prune_realloc.core.typed import AtLeastOne, Positive


@dataclass(frozen=True, kw_only=True)
class Change:
    source: float
    achieved: float


@dataclass(frozen=True, kw_only=True)
class Count:
    source: AtLeastOne
    achieved: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    model: str
    backend: str
    batch_size: AtLeastOne
    median_ms: Positive
    speedup: Positive


@dataclass(frozen=True, kw_only=True)
class Control:
    """A network against its source."""

    params: Count
    macs: Count
    top1: Change | None
    agreement: float | None
    kl: float | None

    def __post_init__(self) -> None:
        if (self.agreement is None) != (self.kl is None):
            raise ValueError("agreement and kl are of the same images; one of them is missing")


@dataclass(frozen=True, kw_only=True)
class Outcome(Control):
    """A cut network."""

    bytes: Count
    samples: int
    predicted_damage: float | None
    predicted_ms: Change | None = None
    latency: list[Timing] | None
    faster: list[str] | None
    notes: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        found = {(each.model, each.batch_size) for each in self.latency or ()}
        if found != set(product(("source", "pruned"), {size for _, size in found})):
            raise ValueError("latency must be of the source and of the pruned network at the same batch sizes")


@dataclass(frozen=True, kw_only=True)
class SweptPoint(Outcome):
    """One of a sweep."""

    budget: float
    recipe: str
    seconds: float
    control: Control | None = None


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A sweep."""

    kind: str
    examination_seconds: float
    notes: list[str]
    points: list[SweptPoint]
