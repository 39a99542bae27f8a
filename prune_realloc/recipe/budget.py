"""The budgets of a recipe: what must hold after rounding. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from prune_realloc.core.cost import DEFAULT_KIND, KINDS, CostKind
from prune_realloc.core.names import Runtime
from prune_realloc.recipe.cost_fields import CostPart, per_kind, size_help
from prune_realloc.recipe.fields import Conflict, Count, Share, Size

Device = Literal["cpu", "cuda"]
_MEASURED = {"latency": ("latency_ms", "keep_latency"), "peak": ("peak_mb", "keep_peak")}
_AMOUNTS = {kind: (kind, f"keep_{kind}") for kind in KINDS} | _MEASURED
"""What a budget counts -> the fields that limit it, of which one may be set."""
_BUDGETS = (*(f"keep_{kind}" for kind in KINDS), *KINDS, *(name for names in _MEASURED.values() for name in names))
_CONDITIONS = ("batch", "runtime", "threads", "device")
MEGABYTE = 10**6
"""Bytes, in `peak_mb`."""


def _share_of_source(kind: CostKind) -> tuple[Any, Any]:
    return Share | None, Field(None, description=f"Share of the source's {kind.noun}, above 0 and at most 1.")


def _absolute(kind: CostKind) -> tuple[Any, Any]:
    return Size | None, Field(None, description=size_help(kind, kind.example))


@per_kind("{}", _absolute)
@per_kind("keep_{}", _share_of_source)
class Budget(CostPart):
    """What must hold after rounding: one budget, or several that all hold."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [name]} for name in _BUDGETS],
            "allOf": [{"not": {"required": [*both]}} for both in _AMOUNTS.values()],
        }
    )

    latency_ms: Annotated[float, Field(strict=True, gt=0, le=1e9)] | None = None
    """Milliseconds for one batch, at most 1e9."""
    keep_latency: Share | None = None
    """Share of the source's time for one batch, above 0 and at most 1."""
    peak_mb: Annotated[float, Field(strict=True, gt=0, le=1e6)] | None = None
    """Megabytes (10^6 bytes) that inference of a batch on a CPU holds at once, at most 1e6."""
    keep_peak: Share | None = None
    """Share of what inference of the source holds at once, above 0 and at most 1."""
    batch: Count | None = None
    """Images at a time, where time or memory is limited. Default: 1."""
    runtime: Runtime | None = None
    """What runs the network, where time is limited. Default: eager."""
    threads: Count | None = None
    """CPU threads, where time is limited. Default: PyTorch's."""
    device: Device | None = None
    """Where the network runs, where time is limited. Default: cpu."""

    def _conflicts(self) -> Iterator[Conflict]:
        given = self.model_dump(exclude_none=True)
        if not set(given) & set(_BUDGETS):
            yield Conflict((), f"is empty; set one of {', '.join(_BUDGETS)}")
        for absolute, share in _AMOUNTS.values():
            if absolute in given and share in given:
                yield Conflict((absolute,), f"excludes {share} {given[share]}; keep one of the two")
        if self.batch is not None and not (self.limits_time or self.limits_memory):
            fields = "latency_ms, keep_latency, peak_mb or keep_peak"
            yield Conflict(("batch",), f"says nothing where neither time nor memory is limited; set {fields}")
        for name in _CONDITIONS[1:]:
            if name in given and not self.limits_time:
                yield Conflict((name,), "says nothing where no time is limited; set latency_ms or keep_latency")

    @property
    def limits_time(self) -> bool:
        """Is there a budget of latency?"""
        return self.latency_ms is not None or self.keep_latency is not None

    @property
    def limits_memory(self) -> bool:
        """Is there a budget of the memory that inference holds?"""
        return self.peak_mb is not None or self.keep_peak is not None

    @property
    def images(self) -> int:
        """Images at a time."""
        return self.batch or 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cost that are limited; none where time or memory alone is."""
        given = self.model_dump(exclude_none=True)
        return tuple(kind for kind in KINDS if {*_AMOUNTS[kind]} & {*given})

    @property
    def kind(self) -> str:
        """The first kind of cost that is limited, else the one that counts where nobody says which."""
        return next(iter(self.kinds), DEFAULT_KIND)

    @property
    def counted(self) -> tuple[str, ...]:
        """All that is limited: `kinds`, `latency` and `peak`."""
        given = self.model_dump(exclude_none=True)
        return (*self.kinds, *(name for name, fields in _MEASURED.items() if {*fields} & {*given}))

    @property
    def asked(self) -> dict[str, Any]:
        """The conditions under which time is limited, as far as they are said."""
        return self.model_dump(exclude_none=True, include={*_CONDITIONS})

    def conditions(self) -> dict[str, Any]:
        """The same; empty where another budget comes first."""
        return self.asked if self.counted[0] in _MEASURED else {}

    def limit_of(self, counted: str, source: float) -> float:
        """The most of one of `counted` that the pruned network may take, where the source takes `source`."""
        if counted == "peak":
            return self.limit_bytes(int(source))
        return self.limit_ms(source) if counted == "latency" else self.limit(int(source), counted)

    def limit(self, source: int, kind: str | None = None) -> int:
        """The most that the pruned network may cost, of `kind`, where the source costs `source`.

        Args:
            kind: one of `kinds`; None: the first.
        """
        counted = kind or self.kind
        absolute: int | None = getattr(self, counted)
        if absolute is not None:
            return absolute
        share = getattr(self, f"keep_{counted}")
        # as the decimal that was written: 0.29 of 100 is 29, although 0.29 * 100 is 28.999...
        return int(Fraction(str(share)) * source)

    def limit_ms(self, source_ms: float) -> float:
        """The most milliseconds for one batch, where the source takes `source_ms`."""
        if self.latency_ms is not None:
            return self.latency_ms
        assert self.keep_latency is not None
        return float(f"{self.keep_latency * source_ms:.6g}")

    def limit_bytes(self, source: int) -> int:
        """The most bytes that inference of a batch may hold, where that of the source holds `source`."""
        if self.peak_mb is not None:
            return int(Fraction(str(self.peak_mb)) * MEGABYTE)
        return int(Fraction(str(self.keep_peak)) * source)
