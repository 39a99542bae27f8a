"""A pruned network as a timm model: its source's name and arguments, and the width of every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm

from prune_realloc.checkpoints.allowed import require_architecture_args, require_architecture_name
from prune_realloc.core.names import PRUNED
from prune_realloc.core.structure import site_place
from prune_realloc.families import cuttable_family_of_architecture
from prune_realloc.pruning.cut import cut_to_widths


def build_pruned(*, source: str, source_args: Mapping[str, Any], widths: Mapping[str, int], **more: Any) -> Any:
    """The network with fresh weights.

    Args:
        source: timm name of the network that was cut.
        source_args: its arguments for `timm.create_model`; `more` overrides them.
        widths: of every site, after the cut.
        more: arguments of `source` that override its own, such as `num_classes`.

    Raises:
        InputError: `source` or its arguments, which stand in a file, are more than a description of a network.
    """
    require_architecture_name(source, f"{PRUNED}: source")
    require_architecture_args(source_args, f"{PRUNED}: source_args")
    require_architecture_args(more, PRUNED, plain=False)
    blocks = len({block for _, block in map(site_place, widths) if block is not None})
    args = {**source_args, **more}
    family = cuttable_family_of_architecture(source)
    whole = timm.create_model(source, pretrained=False, **args | family.depth_args(blocks))
    net: Any = cut_to_widths(whole, widths)
    net.origin = {"source": source, "source_args": dict(source_args)}
    return net
