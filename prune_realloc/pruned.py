"""A pruned network as a timm model: its source's name and arguments, and the width of every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from prune_realloc.families import family_of_architecture
from prune_realloc.structure import site_place
from prune_realloc.surgery import cut_to_widths

ARCHITECTURE = "prune_realloc"
"""timm's name of every pruned network."""
default_cfgs = generate_default_cfgs({ARCHITECTURE: {}})


@register_model
def prune_realloc(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Any network that this package has cut; `source`, `source_args` and `widths` say which."""
    return build_model_with_cfg(
        build_pruned, ARCHITECTURE, pretrained, feature_cfg={"out_indices": 3, "feature_cls": "getter"}, **kwargs
    )


def build_pruned(*, source: str, source_args: Mapping[str, Any], widths: Mapping[str, int], **more: Any) -> Any:
    """The network with fresh weights.

    Args:
        source: timm name of the network that was cut.
        source_args: its arguments for `timm.create_model`; `more` overrides them.
        widths: of every site, after the cut.
    """
    blocks = len({block for _, block in map(site_place, widths) if block is not None})
    args = {**source_args, **more}
    family = family_of_architecture(source)
    whole = timm.create_model(source, pretrained=False, **args | family.depth_args(blocks))
    net: Any = cut_to_widths(whole, widths)
    net.origin = {"source": source, "source_args": dict(source_args)}
    return net
