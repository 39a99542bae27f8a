"""What networks of equal cost with other shares of attention layers are worth: speed, and accuracy where trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prune_realloc.core.files import json_file
from prune_realloc.core.names import count_threads

SANDWICHES_FILE = "sandwiches.json"


@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """One network."""

    asked: float
    """Share of attention layers that was asked for."""
    share: float
    """The one that it has."""
    mean_ffns: float
    """N, the mean over its blocks of the FFNs on either side of the attention: (1 / share - 1) / 2."""
    macs: int
    params: int
    args: Mapping[str, Any]
    """Arguments of timm's efficientvit_flex."""
    ms: Mapping[int, float]
    """Batch size -> median time of one batch of the deploy form."""
    top1: float | None = None
    """Share of the evaluated images that it gets right after its training; None: it was not trained."""


@dataclass(frozen=True, kw_only=True)
class Sandwiches:
    """All of a sweep."""

    networks: tuple[Sandwich, ...]
    device_name: str
    threads: int
    epochs: int | None
    """Of each training; None: they were not trained."""
    named: str = ""
    """The network whose cost they have, as the command line named it; older files and Python do not say it."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """How it was opened beside its name: `model` and `model_args`, where the command line gave them."""

    def __post_init__(self) -> None:
        if not self.networks or any(each.ms.keys() != self.networks[0].ms.keys() for each in self.networks):
            raise ValueError("networks must be one or more, all timed at the same batch sizes")
        if any((each.top1 is None) != (self.epochs is None) for each in self.networks):
            raise ValueError("either all networks were trained, with epochs and top1, or none")

    @property
    def title(self) -> str:
        trained = "untrained" if self.epochs is None else f"{self.epochs} epochs each, one seed: a try-out"
        return f"equal multiply-adds, {self.device_name}, {count_threads(self.threads)}, {trained}"

    def columns(self) -> tuple[str, ...]:
        sizes = [f"ms, batch {size}" for size in self.networks[0].ms]
        return ("asked", "attention", "N", "MACs", "params", *sizes, *(() if self.epochs is None else ("top-1",)))

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{each.asked:g}",
                f"{each.share:.3f}",
                f"{each.mean_ffns:.2f}",
                f"{each.macs:,}",
                f"{each.params:,}",
                *(f"{ms:.2f}" for ms in each.ms.values()),
                *(() if each.top1 is None else (f"{each.top1:.2%}",)),
            )
            for each in self.networks
        ]

    def file(self) -> bytes:
        return json_file(asdict(self))
