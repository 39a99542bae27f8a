"""The shape of the images that a network takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prune_realloc.families import family_of


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the network takes: as its family tells it.

    Raises:
        InputError: nothing tells it.
    """
    return family_of(model).example_input(model)[1:]


def state_size_(model: Any, args: Mapping[str, Any]) -> None:
    """Let a network that is built with `img_size` among its arguments say that it takes that size.

    Most do; timm's configuration of others still has the size of the published weights.
    """
    if (side := args.get("img_size")) is None:
        return
    chans, *told = input_shape(model)
    size = [side, side] if isinstance(side, int) else list(side)
    if told != size:
        model.pretrained_cfg = dict(model.pretrained_cfg) | {"input_size": (chans, *size)}
