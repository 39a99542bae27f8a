"""Cut equals mask: verified on the network at hand where no family has declared it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.structure import INNER_AXES, Site
from prune_realloc.families import CUTTABLE
from prune_realloc.families.host import Host, find_host
from prune_realloc.families.inputs import input_shape
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.hooks import masked

_ROUNDING = 1e-4
"""What the same computed twice may differ by, as a share of the largest output."""
_SHARE = 0.02
"""The same, as a share of what the units that go change."""


_IMAGES = 3
"""Not as many as a network is traced with: what holds for that number of images alone must show."""


class AxisRefused(InputError):
    """Units of an axis cannot be cut from this network."""

    def __init__(self, axis: str, host: Host, why: str) -> None:
        super().__init__(f"axes: {axis} of {host} cannot be cut: {why}; leave {axis} out of the recipe's axes")
        self.axis, self.why = axis, why


@torch.no_grad()
def check_cut_equals_mask(model: nn.Module, sites: Iterable[Site], keep: Keep) -> None:
    """Axis by axis, then all at once: does the network without the units compute what it does while they are off?

    On random images. Where the note of a site says that the statistics of a norm change, the cut must run, no more;
    streams are left out.

    Raises:
        AxisRefused: it does not, so that the axis cannot be cut on this network.
    """
    host = find_host(model)
    if any(family.owns(host.inner) for family in CUTTABLE.values()):
        return  # the tests hold it for whatever they declare
    first = next(host.inner.parameters())
    shape = (_IMAGES, *input_shape(host.inner))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(first)
    by_name = {site.name: site for site in sites}
    whole = _flat(host.inner(images))
    for axis, part in _by_axis(keep, by_name, noted=True).items():
        _of_the_cut(host, by_name, axis, part, images)  # it must run
    parts = _by_axis(keep, by_name, noted=False)
    if len(parts) > 1:
        parts[" with ".join(parts)] = {name: units for part in parts.values() for name, units in part.items()}
    for axis, part in parts.items():
        found = _of_the_cut(host, by_name, axis, part, images)
        with ExitStack() as stack:
            for name, units in part.items():
                gone = sorted(set(range(by_name[name].units)) - set(units.tolist()))
                stack.enter_context(masked(host.inner, by_name[name], gone))
            wanted = _flat(host.inner(images))
        error = float((found - wanted).abs().max())
        if error > _ROUNDING * float(wanted.abs().max()) and error > _SHARE * float((wanted - whole).abs().max()):
            why = f"the result would not be the network without these units (outputs differ by {error:.2g})"
            raise AxisRefused(axis, host, why)


def _by_axis(keep: Keep, sites: Mapping[str, Site], noted: bool) -> dict[str, dict[str, np.ndarray]]:
    """Heads and what lies inside of blocks, of which some units go and some stay: with a note, or without one."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for axis in ("heads", *INNER_AXES):
        own = {name: units for name, units in keep.items() if sites[name].axis == axis}
        own = {name: units for name, units in own.items() if bool(sites[name].note) == noted}
        own = {name: units for name, units in own.items() if 0 < len(units) < sites[name].units}
        if own:
            found[axis] = own
    return found


def _of_the_cut(host: Host, sites: Mapping[str, Site], axis: str, keep: Keep, images: Tensor) -> Tensor:
    try:
        small = cut(host.inner, sites.values(), keep)
    except InputError as error:
        raise AxisRefused(axis, host, str(error)) from error
    try:
        return _flat(small(images))
    except Exception as error:  # it is the network's own code that runs
        why = f"the result does not run on {len(images)} images ({first_line(error)})"
        raise AxisRefused(axis, host, why) from error


def _flat(out: object) -> Tensor:
    """All numbers that a network gives for each image, shape (B, n)."""
    return torch.cat([x.flatten(1) for x in tree_leaves(out) if isinstance(x, Tensor)], dim=1)
