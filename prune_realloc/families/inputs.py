"""The shape of the images that a network takes."""

from __future__ import annotations

from torch import nn

from prune_realloc.families import family_of


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the network takes: as its family tells it.

    Raises:
        InputError: nothing tells it.
    """
    return family_of(model).example_input(model)[1:]
