"""What a family says about a network: its sites, where their units lie, and what they cost.

`families/` writes these types, everything above reads them; `sites.py` completes and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from prune_realloc.cost import Term

Axis = Literal["embed", "heads", "qk", "v", "ffn"]
AXES: tuple[Axis, ...] = ("embed", "heads", "qk", "v", "ffn")


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the numbers of a site's units lie in one parameter."""

    parameter: str
    dim: int
    index: np.ndarray
    """Positions along `dim` of each unit, shape (units, entries)."""


@dataclass(frozen=True, eq=False)
class Gate:
    """Where a unit can be switched off: channels (last dimension) of a module's input or output."""

    module: str
    side: Literal["input", "output"]
    index: np.ndarray
    """Channels of each unit, shape (units, entries)."""


@dataclass(frozen=True, eq=False)
class Site:
    """All units of one axis of one block; `embed` belongs to no block."""

    axis: Axis
    block: int | None
    units: int
    slices: tuple[Slice, ...]
    gates: tuple[Gate, ...]
    """Zeroing a unit's channels at all its gates removes it: a mask."""
    groups: int = 1
    """The units lie in this many equal runs (heads); each must keep the same number."""
    note: str = ""
    """What is special here, for the reader."""

    @property
    def name(self) -> str:
        return self.axis if self.block is None else f"blocks.{self.block}.{self.axis}"

    @property
    def width(self) -> int:
        """Units of one group: of one head for `qk` and `v`, of the site elsewhere."""
        return self.units // self.groups


@dataclass(frozen=True, eq=False)
class OpaqueModule:
    """A module whose inside the dependency graph must not see, only what reads and writes the stream."""

    module: str
    reads: tuple[tuple[str, int], ...]
    """(parameter, dim) pairs whose dimension runs over the channels of the module's input."""
    writes: tuple[tuple[str, int], ...]
    """The same for its output; empty: the output's width is fixed."""
    in_width: int
    out_width: int
    tokens_out: int | None = None
    """Set when the module pools the tokens: how many come out."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A family's whole declaration of a model."""

    family: str
    num_blocks: int
    sites: tuple[Site, ...]
    """Every site inside a block; the streams are found by the graph."""
    terms: tuple[Term, ...]
    opaque: tuple[OpaqueModule, ...]
    stream_roots: dict[str, tuple[str, int]]
    """Stream site name -> the (parameter, dim) that first writes it."""
    stream_gates: dict[str, tuple[Gate, ...]]
    """Stream site name -> outputs of every module that writes it."""
    fixed: dict[str, str]
    """Parameter -> why no site may narrow it."""
    notes: tuple[str, ...] = field(default=())
