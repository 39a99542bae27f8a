"""Sites of a model: what the family declares inside the blocks, and the residual streams that the graph finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from prune_realloc.core.cost import Cost, Widths, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site, Slice, Stream, site_beside
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, inner_of
from prune_realloc.pruning.graph import stream_slices


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """Every site of `model`: the streams first, then of each block the whole, `heads`, `qk`, `v`, `ffn`, `hidden`.

    Args:
        model: a supported network, or one that holds one; names are those in the supported one, and in it of the
            layers that take the place of PyTorch's attention in what is cut.

    Raises:
        InputError: no family supports the model, or a parameter is neither in a slice nor declared fixed.
    """
    model = inner_of(adopted(model))
    family = family_of(model)
    structure = family.describe(model)
    shape = family.example_input(model)
    streams = (
        _stream_site(stream, stream_slices(model, shape, structure.opaque, stream.root)) for stream in structure.streams
    )
    sites = (*streams, *structure.sites)
    _check_coverage(model, sites, structure.fixed)
    return sites


def heads_beside(sites: Mapping[str, Site], name: str) -> Site | None:
    """The heads in which the units of a `qk` or `v` lie; None where a block's heads are those of another attention."""
    heads = sites.get(site_beside(name, "heads"))
    return heads if heads is not None and heads.units == sites[name].groups else None


def stream_sites(sites: Iterable[Site]) -> dict[str, Site]:
    """Name -> site of every residual stream, in the order in which they are computed."""
    return {site.name: site for site in sites if site.axis == "embed"}


def widths(sites: Iterable[Site]) -> Widths:
    """Site name -> width, as `cost.py` reads it."""
    return {site.name: site.width for site in sites}


def cost_of(model: nn.Module) -> Cost:
    """What the supported network that `model` is or holds costs, as wide as it is."""
    inner = inner_of(model)
    return total_cost(family_of(inner).describe(inner).terms, widths(find_sites(inner)))


def _stream_site(stream: Stream, slices: tuple[Slice, ...]) -> Site:
    units = slices[0].index.shape[0]
    return Site(
        "embed", None, units, slices, stream.gates, stage=stream.stage, multiple=stream.multiple, nth=stream.nth
    )


def _check_coverage(model: nn.Module, sites: tuple[Site, ...], fixed: Mapping[str, str]) -> None:
    """Is every parameter in a slice or declared fixed, and every slice inside its parameter or buffer?"""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    places = shapes | {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    # a whole block would cover what was overlooked
    parts = [(site, part) for site in sites if site.axis != "block" for part in site.slices]
    for site, part in parts:
        where = (site.name, part.parameter, part.dim)
        assert len(part.index) == (site.units if part.units is None else len(part.units)), where
        assert part.index.max() < places[part.parameter][part.dim], where
    left = sorted(set(shapes) - set(fixed) - {part.parameter for _, part in parts})
    if left:
        raise InputError(
            f"parameter {left[0]} of shape {shapes[left[0]]} ({len(left)} in all) is in no site and not declared "
            f"fixed; this model differs from the layouts that are supported"
        )
