"""A pruned network as a timm model: its source's name and arguments, and the width of every site."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import timm

from prune_realloc.checkpoints.allowed import require_architecture_args, require_architecture_name
from prune_realloc.checkpoints.layouts.translated import set_norm_eps_
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import PRUNED
from prune_realloc.core.structure import site_place
from prune_realloc.families import cuttable_family_of_architecture
from prune_realloc.families.inputs import state_size_
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.pruning.sites import find_sites


def build_pruned(
    *,
    source: str,
    source_args: Mapping[str, Any],
    widths: Mapping[str, int],
    kept: Mapping[str, Sequence[int]] | None = None,
    blocks: Sequence[int] | None = None,
    norm_eps: float | None = None,
    **more: Any,
) -> Any:
    """The network with fresh weights.

    Args:
        source: timm name of the network that was cut.
        source_args: its arguments for `timm.create_model`; `more` overrides them.
        widths: of every site, after the cut.
        kept: site -> the units that stayed, where they decide more than widths do; see `cut_to_widths`.
        blocks: which blocks of that network these are, where a declared family has blocks that differ in more than
            their widths; None: its first, or of a network that is traced those whose width is not 0.
        norm_eps: of all layer norms, where the source's are others; timm's Swin takes none as an argument.
        more: arguments of `source` that override its own, such as `num_classes`.

    Raises:
        InputError: `source` or its arguments, which stand in a file, are more than a description of a network.
    """
    require_architecture_name(source, f"{PRUNED}: source")
    require_architecture_args(source_args, f"{PRUNED}: source_args")
    require_architecture_args(more, PRUNED, plain=False)
    count = len({block for _, block in map(site_place, widths) if block is not None})
    args = {**source_args, **more}
    family = cuttable_family_of_architecture(source)
    whole = build_whole(source, args | family.depth_args(count))
    net: Any = cut_to_widths(whole, widths if blocks is None else _in_whole(whole, widths, blocks, count), kept)
    if norm_eps is not None:
        set_norm_eps_(net, float(norm_eps))
    net.origin = {"source": source, "source_args": dict(source_args)}
    return net


def build_whole(source: str, args: Mapping[str, Any]) -> Any:
    """timm's network `source` with fresh weights, before anything is cut of it."""
    net = timm.create_model(source, pretrained=False, **args)
    state_size_(net, args)
    return net


def _in_whole(whole: Any, widths: Mapping[str, int], blocks: Sequence[int], count: int) -> dict[str, int]:
    """Widths by the names that the sites have in `whole`, whose other blocks have none."""
    names = [site.name for site in find_sites(whole)]
    have = {block for _, block in map(site_place, names) if block is not None}
    if list(blocks) != sorted({*blocks} & have) or len(blocks) != count:
        raise InputError(f"{PRUNED}: blocks {list(blocks)} are not {count} of the {len(have)} blocks of the source")
    moved = {re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{blocks[int(m[1])]}", name): n for name, n in widths.items()}
    return {name: 0 for name in names if site_place(name)[1] in have - {*blocks}} | moved
