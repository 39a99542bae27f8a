"""A model and the units it keeps -> a physically smaller copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import OUTER_AXES, Site, Slice
from prune_realloc.families import family_of, traced
from prune_realloc.families.host import adopted, copied, find_host, inner_of
from prune_realloc.pruning.layers import sync_layers_
from prune_realloc.pruning.sites import find_sites, heads_beside

Keep = Mapping[str, np.ndarray]
"""Site name -> the units that stay, sorted. A site that is not named keeps all; a block whose unit goes, goes whole."""


def cut(model: nn.Module, sites: Iterable[Site], keep: Keep) -> nn.Module:
    """A copy of `model` without the units that `keep` leaves out; the source is untouched.

    What is around a supported network is copied whole.

    Inside a block the copy computes what the source computes with those units masked. The softmax scale stays
    the source's.

    Raises:
        InputError: an unknown site, a unit out of range, a site that would be empty or of a width that cannot be
            built, heads of unequal width, or a network or a layer that cannot be cut.
    """
    model = adopted(model)
    host = find_host(model)
    family = family_of(host.inner)
    by_name = {site.name: site for site in sites}
    for name, units in keep.items():
        _check(by_name, name, np.asarray(units))
        _check_groups(by_name[name], units, heads_beside(by_name, name), keep)
    blocks_gone = blocks_that_go(by_name.values(), keep)
    if blocks_gone and blocks_gone == {site.block for site in by_name.values() if site.axis == "block"}:
        raise InputError("every block would go; keep at least one")
    if not host.stands_alone:
        _check_inside(str(host), by_name, keep)
    keep = {name: units for name, units in keep.items() if by_name[name].axis != "block"}
    gone = removed_positions(by_name, keep)
    smaller = copied(model, _narrower_tensors(host.inner, gone))
    inner = inner_of(smaller)
    for net in {smaller, inner}:
        vars(net).pop("taken", None)  # what was taken of the source is not true of what is cut from it
    sync_layers_(inner)
    family.sync_(inner, keep, host.inner, gone)
    if blocks_gone:
        family.drop_blocks_(inner, blocks_gone)
    return smaller


def blocks_that_go(sites: Iterable[Site], keep: Keep) -> set[int]:
    """Numbers of the blocks of which `keep` leaves nothing."""
    whole = (site for site in sites if site.axis == "block" and not len(keep.get(site.name, [0])))
    return {site.block for site in whole if site.block is not None}


def cut_to_widths(
    model: nn.Module, widths: Mapping[str, int], kept: Mapping[str, Sequence[int] | np.ndarray] | None = None
) -> nn.Module:
    """A copy in which each site keeps its first units: the shapes of a pruned network, whatever the weights.

    The forward pass is that of the pruned network too, unless a site lies in several parts of one tensor that go
    different ways (`a, b = up(x).chunk(2, -1)`): then how wide each part is follows from which units stay.

    Args:
        model: a supported network, or one that holds one.
        widths: of every site; for `qk` and `v` of each head.
        kept: site -> the units that stay in place of its first ones.

    Raises:
        InputError: a site is missing, unknown, or narrower than asked for.
    """
    model = adopted(model)
    sites = find_sites(model)
    for name in sorted({site.name for site in sites} ^ set(widths)):
        raise InputError(
            f"widths: {name} is {'no site of this model' if name in widths else 'missing'}; see find_sites"
        )
    keep = {}
    for site in sites:
        if widths[site.name] > site.width:
            raise InputError(f"widths: {widths[site.name]} of {site.name} are more than its {site.width}; give fewer")
        if widths[site.name] or site.axis == "block":  # the other sites of a block that goes are gone with it
            runs = np.arange(site.groups)[:, None] * site.width
            keep[site.name] = (runs + np.arange(widths[site.name])).ravel()
    return cut(model, sites, keep | {name: np.asarray(units) for name, units in (kept or {}).items()})


def units_left(sites: Iterable[Site], keep: Keep) -> dict[str, np.ndarray]:
    """Site -> those of its units of which something is left after `cut`; of a block that goes, nothing is."""
    by_name = {site.name: site for site in sites}
    blocks_gone = blocks_that_go(by_name.values(), keep)
    gone = removed_positions(by_name, {name: units for name, units in keep.items() if by_name[name].axis != "block"})

    def here(part: Slice) -> np.ndarray:
        positions = gone.get(part.parameter, {}).get(part.dim, np.arange(0))
        return np.asarray(np.isin(part.index, positions, invert=True).any(axis=1))

    return {
        name: np.flatnonzero(_left_in(site, here)) if site.block not in blocks_gone else np.arange(0)
        for name, site in by_name.items()
    }


def widths_left(model: nn.Module, source: nn.Module) -> dict[str, int]:
    """The widths to which `cut_to_widths` cuts `source` for the shapes of `model`; networks that are traced.

    Args:
        model: what was cut, once or several times, from a network like `source`.
    """
    return {site.name: int(stays.sum(axis=1).max()) for site, stays in _stays(model, source)}


def kept_left(model: nn.Module, source: nn.Module) -> dict[str, list[int]]:
    """Which units of `source` stay, where they are not the first ones; arguments as of `widths_left`."""
    found = {}
    for site, stays in _stays(model, source):
        first = np.arange(stays.shape[1]) < stays.sum(axis=1).max()
        stays[~stays.any(axis=1)] = first  # of heads that are gone
        if (stays != first).any():
            found[site.name] = np.flatnonzero(stays).tolist()
    return found


def _stays(model: nn.Module, source: nn.Module) -> Iterator[tuple[Site, np.ndarray]]:
    """The sites of `source`, and which units of each are left in `model`, shape (groups, width)."""
    left = traced.left(model)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}

    def here(part: Slice) -> np.ndarray:
        if part.parameter not in names:  # its block is gone
            return np.zeros(len(part.index), dtype=bool)
        places = left.get(part.parameter, {}).get(part.dim, part.index)
        return np.asarray(np.isin(part.index, places).any(axis=1))

    for site in find_sites(source):
        yield site, _left_in(site, here).reshape(site.groups, -1)


def _left_in(site: Site, here: Callable[[Slice], np.ndarray]) -> np.ndarray:
    """Which units of a site have something left, by what is left of each slice."""
    stays = np.zeros(site.units, dtype=bool)
    for part in site.slices:
        stays[slice(None) if part.units is None else part.units] |= here(part)
    return stays


def _check_inside(host: str, by_name: Mapping[str, Site], keep: Keep) -> None:
    """Raises InputError where `keep` narrows what is around the network that is cut: it reads the streams."""
    for name, units in keep.items():
        if by_name[name].axis in OUTER_AXES and len(units) < by_name[name].units:
            raise InputError(f"{name}: {host} reads it from outside; keep it whole")


def _check(by_name: Mapping[str, Site], name: str, units: np.ndarray) -> None:
    """Raises an InputError where there is no such site, or it cannot keep these units."""
    if name not in by_name:
        raise InputError(f"site {name!r} is not in this model; it has {', '.join(list(by_name)[:5])}, ...")
    site = by_name[name]
    if len(units) == 0:
        if site.axis == "block":
            return
        raise InputError(f"{name}: no unit is kept; keep at least one")
    if units.min() < 0 or units.max() >= site.units or (np.diff(units) <= 0).any():
        raise InputError(f"{name}: units must be increasing and below {site.units}")
    if len(units) % (site.groups * site.multiple) and site.multiple > 1:
        raise InputError(
            f"{name}: {len(units) // site.groups} units are kept; the width must be a multiple of {site.multiple}"
        )


def _check_groups(site: Site, units: np.ndarray, heads: Site | None, keep: Keep) -> None:
    """Raises an InputError where the heads that stay, or other groups, differ in width."""
    if site.groups == 1:
        return
    of_heads = site.axis in ("qk", "v")
    counts = np.bincount(np.asarray(units) // site.width, minlength=site.groups)
    if of_heads and heads is not None:
        counts = counts[keep.get(heads.name, np.arange(site.groups))]
    if counts.min() != counts.max():
        what = "heads" if of_heads else "groups"
        raise InputError(
            f"{site.name}: the kept {what} differ in width ({counts.tolist()}); keep the same number in each"
        )


def _narrower_tensors(model: nn.Module, gone: Mapping[str, Mapping[int, np.ndarray]]) -> dict[int, object]:
    """What `copy.deepcopy` takes in place of a copy of each whole parameter or buffer: its `id` -> what is left."""
    whole = dict(model.named_parameters()) | dict(model.named_buffers())
    narrower: dict[int, object] = {}
    for name, by_dim in gone.items():
        tensor = whole[name].detach()
        for dim, positions in by_dim.items():
            stays = np.setdiff1d(np.arange(tensor.shape[dim]), positions)
            tensor = tensor.index_select(dim, torch.as_tensor(stays, device=tensor.device))
        tensor = tensor.contiguous()
        is_weight = isinstance(whole[name], nn.Parameter)
        narrower[id(whole[name])] = nn.Parameter(tensor, whole[name].requires_grad) if is_weight else tensor
    return narrower


def removed_positions(by_name: Mapping[str, Site], keep: Keep) -> dict[str, dict[int, np.ndarray]]:
    """Parameter or buffer -> dimension -> positions that go; sites that share a dimension add up."""
    gone: dict[str, dict[int, np.ndarray]] = {}
    for name, units in keep.items():
        site = by_name[name]
        removed = np.setdiff1d(np.arange(site.units), units)
        for part in site.slices:
            by_dim = gone.setdefault(part.parameter, {})
            rows = removed if part.units is None else np.isin(part.units, removed)
            positions = part.index[rows].ravel()
            by_dim[part.dim] = np.union1d(by_dim.get(part.dim, positions), positions)
    return gone
