"""What `heads` has found: how alike the heads of each block are, and what is lost without each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.files import json_file
from prune_realloc.core.structure import site_place
from prune_realloc.core.typed import holding

HEADS_FILE = "heads.json"


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Cosine similarities between the heads of a block."""

    matrix: tuple[tuple[float, ...], ...]
    mean: float
    """Off the diagonal."""
    largest: float
    """Off the diagonal."""


@dataclass(frozen=True, kw_only=True)
class BlockHeads:
    """One site of the axis `heads`."""

    site: str
    heads: int
    maps: Likeness | None
    """Of attention maps; None where the attention has none that can be watched."""
    outputs: Likeness | None
    """Of what the heads add to the stream; None where no layer reads them one by one."""
    removal: tuple[float, ...]
    """Loss without each head minus the loss of the whole network, nats per image; without labels the same as `kl`."""
    kl: tuple[float, ...]
    """KL(whole || without the head), nats per image."""
    kept: int | None = None
    """How many the planner keeps where half of what all heads cost must go; None: it has no such site."""

    def __post_init__(self) -> None:
        if site_place(self.site)[1] is None:
            raise ValueError(f"site {self.site!r} lies in no block")
        if not self.heads == len(self.removal) == len(self.kl) >= 1:
            raise ValueError(f"heads is {self.heads}, but losses are those of {len(self.removal)} and {len(self.kl)}")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is read of `Heads.recipe`."""

    source: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What `heads` has found."""

    blocks: tuple[BlockHeads, ...]
    samples: int
    labelled: bool
    """Are the losses those of labels, not distances to the whole network?"""
    notes: tuple[str, ...]
    taken: Mapping[str, Mapping[str, Any]]
    recipe: Annotated[Mapping[str, Any], holding(_Asked)] | None = None
    """Network, images and scorer, as `Analysis.as_recipe` has them; older files do not say them."""

    def is_of(self, analysis: Analysis) -> bool:
        """Is it of the network of an analysis?"""
        own = self.recipe and self.recipe["source"].get("weights_sha256")
        return own is not None and own == analysis.model.get("weights_sha256")

    @property
    def title(self) -> str:
        """What `rows` holds."""
        lost = "loss at the labels" if self.labelled else "KL to the whole network"
        alike = "cosine similarity between heads, mean and largest"
        return f"{alike}; nats per image ({lost}) without one head (which); {self.samples} images"

    def rows(self) -> list[tuple[str, ...]]:
        """One for each block, under `COLUMNS`; what was not measured is empty."""
        return [_row(block) for block in self.blocks]

    def file(self) -> bytes:
        """The content of `HEADS_FILE`."""
        return json_file(asdict(self))


COLUMNS = ("site", "heads", "maps", "outputs", "least lost", "most lost", "planned")
"""So few and narrow that 80 columns of a terminal hold them."""


def _row(block: BlockHeads) -> tuple[str, ...]:
    order = sorted(range(block.heads), key=lambda head: block.removal[head])
    return (
        block.site.removesuffix(".heads"),
        str(block.heads),
        _alike(block.maps),
        _alike(block.outputs),
        *(f"{block.removal[head]:.2g} ({head})" for head in (order[0], order[-1])),
        "" if block.kept is None else str(block.kept),
    )


def _alike(likeness: Likeness | None) -> str:
    return "" if likeness is None else f"{likeness.mean:.2f} {likeness.largest:.2f}"
