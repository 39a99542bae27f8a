"""What reaches a supported network through the one around it, and whether it is run as its family describes."""

from __future__ import annotations

import torch
from torch import Tensor

from prune_realloc.core.errors import InputError
from prune_realloc.families import family_of
from prune_realloc.families.base import Leading
from prune_realloc.families.host import Host
from prune_realloc.pruning.hooks import hooked
from prune_realloc.pruning.sites import find_sites, stream_sites

_ROUNDING = 1e-3
"""What the same layers computed twice may differ by, as a share of the largest value."""


@torch.no_grad()
def handed_on(host: Host, images: Tensor) -> Tensor:
    """The images that the supported network sees where the one around it gets `images`.

    Raises:
        InputError: it does not see as many images, or not once.
    """
    if host.stands_alone:
        return images
    seen: list[Tensor] = []
    with hooked(host.inner, [(_first_layer(host), "input", seen.append)]):
        host.network(images)
    if [(x.ndim, len(x)) for x in seen] != [(4, len(images))]:
        shapes = ", ".join(str(tuple(x.shape)) for x in seen) or "nothing"
        raise InputError(
            f"model {host} hands on {shapes} for images of shape {tuple(images.shape)}; it must hand on each image once"
        )
    return seen[0]


@torch.no_grad()
def check_handed_on(host: Host, images: Tensor) -> None:
    """Is the supported network run as its family describes, one branch after the other, from the images that it sees?

    Raises:
        InputError: it is not; layers could not be refitted.
    """
    family, inner = family_of(host.inner), host.inner
    branches = family.describe(inner).branches
    if not branches:
        return
    streams = list(stream_sites(find_sites(inner)))
    seen, last = handed_on(host, images), branches[-1]
    runs: list[Tensor] = []
    again: list[Tensor] = []
    with hooked(inner, [(last.writer, "input", runs.append)]):
        host.network(images)
    with hooked(inner, [(last.writer, "input", again.append)]):
        x = seen
        for stream in streams:
            x = family.stream_input(inner, stream, x)
            for branch in (each for each in branches if each.stream == stream):
                x = family.lead(inner, branch, x) if isinstance(family, Leading) else x
                x = x + family.branch_output(inner, branch, x)
    if len(runs) != 1 or runs[0].shape != again[0].shape or _differ(runs[0], again[0]):
        raise InputError(
            f"model {host} does not run all blocks once, in order and on the images alone (tokens or masks of its own, "
            "blocks left out); run it as timm does, by forward, forward_features or forward_intermediates"
        )


def _first_layer(host: Host) -> str:
    """The module that reads the images."""
    structure = family_of(host.inner).describe(host.inner)
    if structure.streams:
        return structure.streams[0].root[0].rpartition(".")[0]
    [stream, *_] = stream_sites(structure.sites).values()
    return stream.slices[0].parameter.rpartition(".")[0]


def _differ(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > _ROUNDING * float(b.abs().max())
