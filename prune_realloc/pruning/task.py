"""What the steps of a refit read: the networks, what is left of their streams, and what passes in them."""

# B images, N tokens, D stream channels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prune_realloc.core.structure import Branch, Crossing, Side, Site, Structure
from prune_realloc.families import family_of
from prune_realloc.families.base import CuttableFamily, Leading, Reordering
from prune_realloc.pruning.cut import Keep, blocks_that_go, cut, removed_positions
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.linear import norm_at
from prune_realloc.pruning.ridge import Choice
from prune_realloc.pruning.sites import stream_sites
from prune_realloc.pruning.tune import Tuning


@dataclass(frozen=True)
class Task:
    """What all steps of a refit read."""

    model: nn.Module
    source: nn.Module
    wide: nn.Module
    """The source cut like `model`, but for its streams: its readers put out what the model's should."""
    family: CuttableFamily
    structure: Structure
    """That of the source."""
    gone: set[int]
    """Blocks that the model has not."""
    norms: Mapping[str, str]
    """Of the model: layer -> the batch norm behind it."""
    streams: Mapping[str, Site]
    """Name -> site, in the source, of every stream, in the order in which they are computed."""
    narrow: frozenset[str]
    """Those of them that lost channels."""
    gone_inside: Mapping[str, Mapping[int, np.ndarray]]
    """Parameter of the source -> dimension -> the positions that the cut inside blocks took."""
    gone_streams: Mapping[str, Mapping[int, np.ndarray]]
    """The same of the cut of the streams."""
    weights: Mapping[str, Tensor]
    ridge: bool
    """Are weights fitted? Else intercepts alone."""
    tuning: Tuning | None
    """What is done to each part behind its refit; None: nothing."""
    choices: list[Choice] = field(default_factory=list)
    """Of the layers that are fitted so far."""

    def narrower(self, stream: str) -> bool:
        return stream in self.narrow

    def last(self, stream: str, x: Tensor) -> Tensor:
        """What the family has of a stream -> (B, .., D), its channels last."""
        return x.movedim(self.structure.stream_dims.get(stream, -1), -1)

    def rows(self, layer: str, x: Tensor) -> Tensor:
        """What a layer of `wide` or of the source puts out, or the stream that it writes, (.., C): only what is left.

        A unit of a stream may be several of its channels, where a convolution made more of each on the way.
        """
        name = f"{layer}.weight"
        rows = np.arange(self.source.get_parameter(name).shape[0])
        inner, outer = (
            np.isin(rows, gone.get(name, {}).get(0, rows[:0])) for gone in (self.gone_inside, self.gone_streams)
        )
        stays = ~(inner | outer)
        if x.shape[-1] < len(rows):  # of `wide`
            stays = stays[~inner]
        return x if stays.all() else x[..., torch.as_tensor(np.flatnonzero(stays), device=x.device)]

    def norm(self, name: str) -> _BatchNorm | None:
        """The batch norm behind a layer of the model."""
        return norm_at(self.model, self.norms.get(name))

    def aligned(self, model: nn.Module, branch: Branch, seen: Tensor) -> Tensor:
        """What a layer of `branch` saw in `model`, in the order of the tokens of the stream."""
        return self.family.in_stream_order(model, branch, seen) if isinstance(self.family, Reordering) else seen

    def led(self, model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
        """What `branch` takes in `model`, from the stream behind the branch before it."""
        return self.family.lead(model, branch, x) if isinstance(self.family, Leading) else x

    def output(self, model: nn.Module, branch: Branch, x: Tensor) -> Tensor:
        """What `branch` adds in `model` to `x`, as it takes it."""
        return self.family.branch_output(model, branch, x)

    def weight(self, place: Branch | Crossing) -> Tensor | None:
        """How much each token matters at a writer; None where that was not measured."""
        return self.weights.get(place.site, self.weights.get(place.writer))

    def aligned_weight(self, branch: Branch) -> Tensor | None:
        """How much each token matters at the writer of `branch`, in the order of the stream."""
        weight = self.weight(branch)
        return None if weight is None else self.aligned(self.source, branch, weight[None, :, None]).flatten()

    def enter(self, stream: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What enters `stream` in the source and in the model."""
        return self.family.stream_input(self.source, stream, x), self.family.stream_input(self.model, stream, y)


def prepared(
    model: nn.Module,
    source: nn.Module,
    sites: Sequence[Site],
    keep: Keep,
    weights: Mapping[str, Tensor],
    ridge: bool,
    tuning: Tuning | None,
) -> Task:
    """The arguments are those of `refit_`."""
    streams, family, by_name = stream_sites(sites), family_of(source), {site.name: site for site in sites}
    narrow = frozenset(name for name, site in streams.items() if len(keep.get(name, range(site.units))) < site.units)
    inside = {name: units for name, units in keep.items() if name not in streams}
    return Task(
        model=model,
        source=source,
        wide=cut(source, sites, inside) if narrow else model,
        family=family,
        structure=family.describe(source),
        gone=blocks_that_go(sites, keep),
        norms=family.describe(model).norms,
        streams=streams,
        narrow=narrow,
        gone_inside=removed_positions(
            by_name, {name: units for name, units in inside.items() if by_name[name].axis != "block"}
        ),
        gone_streams=removed_positions(streams, {name: units for name, units in keep.items() if name in streams}),
        weights=weights,
        ridge=ridge,
        tuning=tuning,
    )


def watched(model: nn.Module, name: str, side: Side, run: Callable[[], Tensor]) -> Tensor:
    """What a module takes in or puts out while `run` runs."""
    seen: list[Tensor] = []
    with hooked(model, [(name, side, seen.append)]):
        run()
    return seen[0]
