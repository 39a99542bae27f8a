"""Cut equals mask: verified on the network at hand where no family has declared it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import INNER_AXES, Site
from prune_realloc.families import CUTTABLE
from prune_realloc.families.host import find_host
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.hooks import masked

_ROUNDING = 1e-4
"""What the same computed twice may differ by, as a share of the largest output."""
_SHARE = 0.02
"""The same, as a share of what the units that go change."""


@torch.no_grad()
def check_cut_equals_mask(model: nn.Module, sites: Iterable[Site], keep: Keep) -> None:
    """Axis by axis: does the network without the units compute what it computes while they are switched off?

    On random images. Sites whose note says that the statistics of a norm change are left out, and so are streams.

    Raises:
        InputError: it does not, so that the axis cannot be cut on this network.
    """
    host = find_host(model)
    if any(family.owns(host.inner) for family in CUTTABLE.values()):
        return  # the tests hold it for whatever they declare
    first = next(host.inner.parameters())
    shape = (2, *input_shape(host.inner))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(first)
    by_name = {site.name: site for site in sites}
    whole = _flat(host.inner(images))
    for axis in ("heads", *INNER_AXES):
        part = {name: units for name, units in keep.items() if by_name[name].axis == axis}
        part = {n: u for n, u in part.items() if 0 < len(u) < by_name[n].units and not by_name[n].note}
        if not part:
            continue
        found = _flat(cut(host.inner, by_name.values(), part)(images))
        with ExitStack() as stack:
            for name, units in part.items():
                gone = sorted(set(range(by_name[name].units)) - set(units.tolist()))
                stack.enter_context(masked(host.inner, by_name[name], gone))
            wanted = _flat(host.inner(images))
        error = float((found - wanted).abs().max())
        if error > _ROUNDING * float(wanted.abs().max()) and error > _SHARE * float((wanted - whole).abs().max()):
            raise InputError(
                f"axes: {axis} of {host} cannot be cut: the result would not be the network without these units "
                f"(outputs differ by {error:.2g}); leave {axis} out of the recipe's axes"
            )


def _flat(out: object) -> Tensor:
    """All numbers that a network gives for each image, shape (B, n)."""
    return torch.cat([x.flatten(1) for x in tree_leaves(out) if isinstance(x, Tensor)], dim=1)
