"""What a family says about a network: its sites, where their units lie, and what they cost.

`families/` writes these types, everything above reads them. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from prune_realloc.core.cost import Term, Widths

if TYPE_CHECKING:
    import numpy as np


Axis = Literal["embed", "block", "heads", "qk", "v", "ffn", "hidden"]
AXES: tuple[Axis, ...] = ("embed", "block", "heads", "qk", "v", "ffn", "hidden")
INNER_AXES: tuple[Axis, ...] = ("qk", "v", "ffn", "hidden")
"""The axes whose units can go without touching any other site."""
OUTER_AXES: tuple[Axis, ...] = ("embed", "block")
"""The axes that show outside the network: what stands around it reads the streams, and counts the blocks."""
Side = Literal["input", "output"]
"""Of a module: its first argument, or what it returns."""


def common_module(parameters: Iterable[str]) -> str:
    """The innermost module that has all of these parameters; empty: the network itself."""
    parts = zip(*(name.split(".")[:-1] for name in parameters), strict=False)
    return ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))


def site_name(axis: str, block: int | None, stage: int | None = None, nth: int = 0) -> str:
    """`embed`, `stages.1.embed` where each stage has a stream, `blocks.3` (the whole block) or `blocks.3.ffn`.

    Args:
        nth: how many sites of this axis are before it in its block or stage: the second FFN is `blocks.3.ffn.1`.
    """
    if axis == "block":
        return f"blocks.{block}"
    own = axis if nth == 0 else f"{axis}.{nth}"
    if block is None:
        return own if stage is None else f"stages.{stage}.{own}"
    return f"blocks.{block}.{own}"


def site_place(name: str) -> tuple[str, int | None]:
    """(axis, block) of a site's name; the stream of a stage belongs to no block."""
    first, *rest = name.split(".")
    if first == "blocks":
        return (rest[1] if len(rest) > 1 else "block"), int(rest[0])
    return (rest[1] if first == "stages" else first), None


def site_nth(name: str) -> int:
    """How many sites of its axis are before a site in its block or stage, as `site_name` counts them."""
    first, *rest = name.split(".")
    own = rest[1:] if first in ("blocks", "stages") else [first, *rest]
    return int(own[1]) if len(own) > 1 else 0


def site_beside(name: str, axis: str) -> str:
    """The site of another axis that belongs to the same part of a block, such as the `heads` of a `qk`."""
    return site_name(axis, site_place(name)[1], nth=site_nth(name))


def without_dropped_blocks(widths: Widths) -> dict[str, int]:
    """With width 0 for every site of a block that goes."""
    gone = {site_place(name)[1] for name, width in widths.items() if not width and site_place(name)[0] == "block"}
    return {name: 0 if site_place(name)[1] in gone else width for name, width in widths.items()}


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the numbers of a site's units lie in one parameter, or in a buffer that has a number for each unit."""

    parameter: str
    """Its name; of a buffer, such as a mean that a batch norm keeps, the buffer's."""
    dim: int
    index: np.ndarray
    """Positions along `dim` of each unit, shape (units, entries)."""
    units: np.ndarray | None = None
    """Which of the site's units lie here, one for each row of `index`; None: all."""


@dataclass(frozen=True, eq=False)
class Gate:
    """Where a unit can be switched off: channels of a module's input or output."""

    module: str
    """Its name; or, where a layer is not called as one, that of its weight: what it is applied to, or gives."""
    side: Side
    index: np.ndarray
    """Channels of each unit, shape (units, entries)."""
    dim: int = -1
    """The tensor's dimension that runs over channels."""
    units: np.ndarray | None = None
    """Which of the site's units pass here, one for each row of `index`; None: all."""


@dataclass(frozen=True, eq=False)
class Site:
    """Units of one axis of one block; `embed` belongs to no block, and a whole block is one unit."""

    axis: Axis
    block: int | None
    units: int
    slices: tuple[Slice, ...]
    gates: tuple[Gate, ...]
    """Zeroing a unit's channels at all its gates removes it: a mask."""
    groups: int = 1
    """The units lie in this many equal runs (heads); each must keep the same number."""
    note: str = ""
    """What the reader of an analysis should know of this site."""
    stage: int | None = None
    """The stage that a stream belongs to; None where one stream runs through the whole network, and inside blocks."""
    multiple: int = 1
    """The width must be a multiple of this, as `embed` of the number of heads that split it."""
    nth: int = 0
    """How many sites of its axis are before it in its block or stage."""

    @property
    def name(self) -> str:
        return site_name(self.axis, self.block, self.stage, self.nth)

    @property
    def width(self) -> int:
        """Units of one group: of one head for `qk` and `v`, of the site elsewhere."""
        return self.units // self.groups


@dataclass(frozen=True, eq=False)
class Stream:
    """A residual stream whose slices the dependency graph finds: one for the network, or one for each stage."""

    root: tuple[str, int]
    """The (parameter, dim) that writes the stream first; where no stream is before it, its layer reads the images."""
    gates: tuple[Gate, ...]
    """Outputs of every module that writes the stream."""
    stage: int | None = None
    """The stage that the stream belongs to; None where it runs through the whole network."""
    multiple: int = 1
    """The number of channels must be a multiple of this."""
    nth: int = 0
    """How many streams of its stage are computed before it."""

    @property
    def site(self) -> str:
        """The name of its site."""
        return site_name("embed", None, self.stage, self.nth)


@dataclass(frozen=True, eq=False)
class OpaqueModule:
    """A module whose inside the dependency graph must not see, only what reads and writes the stream."""

    module: str
    reads: tuple[tuple[str, int], ...]
    """(parameter, dim) pairs whose dimension runs over the channels of the module's input."""
    writes: tuple[tuple[str, int], ...]
    """(parameter, dim) pairs whose dimension runs over the channels of its output; empty: that width is fixed."""
    in_width: int
    out_width: int
    tokens_out: int | None = None
    """How many tokens come out, where the module pools them; None: as many as went in."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Weights that matter only through their product, so that a change of basis between them changes nothing."""

    site: str
    left: tuple[Slice, ...]
    """Where the units' activations x come from. x -> A x leaves the function as it is, if `right` goes r -> A^-T r."""
    right: tuple[Slice, ...]
    """What reads the units: the weights r that meet x in a product."""
    groups: int
    """A is block-diagonal: one block for each of this many runs of units (heads)."""


@dataclass(frozen=True, eq=False)
class Branch:
    """What one half of a block adds to the residual stream."""

    name: str
    """The module's name, such as `blocks.3.attn`."""
    block: int
    site: str
    """The site whose units the writer reads: a stream's where it reads channel by channel what the stream holds."""
    stream: str
    """The site of the stream that it reads and adds to."""
    readers: tuple[str, ...]
    """Layers (linear ones, convolutions) that read the (normalised) stream; they share their input. Perhaps none."""
    writer: str
    """The layer that writes to the stream."""
    post_norm: bool
    """A norm lies between the writer and the stream that no correction can go through; one of `norms` is none."""
    fitted: bool = True
    """False where the writer is no layer that can be fitted, such as a depthwise convolution; it has no units then."""


@dataclass(frozen=True, eq=False)
class Crossing:
    """A layer that writes a stream first, from units that lie between that stream and the one before it."""

    site: str
    """The site whose units it reads."""
    stream: str
    """The site of the stream that it writes; not the first."""
    writer: str


@dataclass(frozen=True, eq=False)
class Structure:
    """A family's whole declaration of a model."""

    sites: tuple[Site, ...]
    """Sites inside blocks; before them the streams where the family finds their slices itself and leaves `streams`
    empty, in the order in which they are computed, the slice that writes a stream first in front."""
    terms: tuple[Term, ...]
    """The cost of the network as a formula of the widths of its sites."""
    opaque: tuple[OpaqueModule, ...]
    """Modules that the dependency graph must not look into."""
    streams: tuple[Stream, ...]
    """The streams whose slices are left for the dependency graph to find, in the order in which they are computed."""
    fixed: dict[str, str]
    """Parameter -> why no site may narrow it."""
    branches: tuple[Branch, ...]
    """In the order in which they are computed; none: layers are neither rotated, cut nor refitted."""
    pairs: tuple[Pair, ...]
    """Weights that can be put into another basis before a cut."""
    exits: dict[str, str]
    """Layer that reads a stream after the last branch on it -> the site of that stream."""
    notes: tuple[str, ...] = field(default=())
    """What the reader of an analysis must know about networks of this kind."""
    norms: dict[str, str] = field(default_factory=dict)
    """Reader, writer or exit -> the batch norm that reads its output and nothing else does."""
    stream_dims: dict[str, int] = field(default_factory=dict)
    """Site of a stream -> the dimension that runs over its channels where the family hands it on; -1 if not named."""
    crossings: tuple[Crossing, ...] = ()
    """Layers between two streams that read units of their own."""

    def readers(self) -> dict[str, str]:
        """One layer for every place where a stream is read -> the site of that stream."""
        return {branch.readers[0]: branch.stream for branch in self.branches if branch.readers} | self.exits

    def writers(self) -> dict[str, Branch | Crossing]:
        """Key of the moments -> what has a writer that can be fitted: its site, or its writer where it shares that."""
        found: list[Branch | Crossing] = [*(branch for branch in self.branches if branch.fitted), *self.crossings]
        counts = Counter(each.site for each in found)
        return {each.site if counts[each.site] == 1 else each.writer: each for each in found}
