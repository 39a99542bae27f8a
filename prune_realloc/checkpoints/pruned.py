"""A pruned network as a timm model: its source's name and arguments, and the width of every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm

from prune_realloc.core.structure import site_place
from prune_realloc.families import cuttable_family_of_architecture
from prune_realloc.pruning.cut import cut_to_widths


def build_pruned(*, source: str, source_args: Mapping[str, Any], widths: Mapping[str, int], **more: Any) -> Any:
    """The network with fresh weights.

    Args:
        source: timm name of the network that was cut.
        source_args: its arguments for `timm.create_model`; `more` overrides them.
        widths: of every site, after the cut.
    """
    blocks = len({block for _, block in map(site_place, widths) if block is not None})
    args = {**source_args, **more}
    family = cuttable_family_of_architecture(source)
    whole = timm.create_model(source, pretrained=False, **args | family.depth_args(blocks))
    net: Any = cut_to_widths(whole, widths)
    net.origin = {"source": source, "source_args": dict(source_args)}
    return net
