"""Which units are the heads of a network, where they are an axis and where other sites tell them apart."""

# V value width per head

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import nn

from prune_realloc.core.structure import Gate, Site, Slice
from prune_realloc.families import family_of
from prune_realloc.families.host import inner_of
from prune_realloc.pruning.sites import find_sites

CASCADED = "a head that is removed still feeds the next one of the cascade"
TIED = "the channels of all heads are tied, so that a cut takes some of each"


def head_sites(model: nn.Module) -> list[Site]:
    """The heads of every attention; of cascaded and of tied ones, which are no axis, as the writer reads them."""
    sites, inner = find_sites(model), inner_of(model)
    found = [site for site in sites if site.axis == "heads"]
    writers = {branch.block: branch.writer for branch in family_of(inner).describe(inner).branches}
    cascades: dict[int, list[Site]] = defaultdict(list)
    named = {site.block for site in found}
    for site in sites:
        if site.block is None or site.block not in writers or site.block in named:
            continue
        if site.axis == "qk" and site.groups == 1:
            cascades[site.block].append(site)
        if site.axis == "v" and (heads := _tied(site, writers[site.block])) is not None:
            found.append(_read(inner, site.block, [site], writers[site.block], heads, TIED))
    for block, parts in cascades.items():
        width = inner.get_parameter(f"{writers[block]}.weight").shape[1]
        if len(parts) > 1 and width % len(parts) == 0:
            heads = np.arange(width).reshape(len(parts), -1)
            found.append(_read(inner, block, parts, writers[block], heads, CASCADED))
    return found


def _tied(site: Site, writer: str) -> np.ndarray | None:
    """The writer's columns of each head, (heads, V), where a unit of the values is one channel in several heads."""
    read = [part for part in site.slices if part.parameter == f"{writer}.weight" and part.dim == 1]
    if len(read) != 1 or read[0].units is not None or read[0].index.shape[1] == 1:
        return None
    columns: np.ndarray = read[0].index.reshape(site.groups, site.width, -1).transpose(0, 2, 1)
    return columns.reshape(-1, site.width)


def _read(inner: nn.Module, block: int, parts: Sequence[Site], writer: str, heads: np.ndarray, note: str) -> Site:
    weight = f"{writer}.weight"
    channels = 1 if inner.get_parameter(weight).ndim == 4 else -1
    slices = (Slice(weight, 1, heads), *(site.slices[0] for site in parts))
    return Site("heads", block, len(heads), slices, (Gate(writer, "input", heads, channels),), note=note)
