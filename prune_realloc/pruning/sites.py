"""Sites of a model: what the family declares inside the blocks, and the residual streams that the graph finds."""

from __future__ import annotations

from torch import nn

from prune_realloc.core.cost import Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import Site, Structure
from prune_realloc.families import family_of
from prune_realloc.pruning.graph import stream_slices


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """Every site of `model`: the streams first, then of each block the whole, `heads`, `qk`, `v`, `ffn`.

    Raises:
        InputError: no family supports the model, or a parameter is neither in a slice nor declared fixed.
    """
    family = family_of(model)
    structure: Structure = family.describe(model)
    streams = []
    for name, root in structure.stream_roots.items():
        slices = stream_slices(model, family.example_input(model), structure.opaque, root)
        units = slices[0].index.shape[0]
        streams.append(Site("embed", None, units, slices, structure.stream_gates[name]))
    sites = (*streams, *structure.sites)
    _check_coverage(model, sites, structure.fixed)
    return sites


def widths(sites: tuple[Site, ...]) -> Widths:
    """Site name -> width, as `cost.py` reads it."""
    return {site.name: site.width for site in sites}


def _check_coverage(model: nn.Module, sites: tuple[Site, ...], fixed: dict[str, str]) -> None:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    covered = set(fixed)
    for site in sites:
        for part in site.slices if site.axis != "block" else ():  # a whole block would cover what was overlooked
            assert len(part.index) == (site.units if part.units is None else len(part.units)), (
                site.name,
                part.parameter,
            )
            assert part.index.max() < shapes[part.parameter][part.dim], (site.name, part.parameter, part.dim)
            covered.add(part.parameter)
    left = sorted(set(shapes) - covered)
    if left:
        raise InputError(
            f"parameter {left[0]} of shape {shapes[left[0]]} ({len(left)} in all) is in no site and not declared "
            f"fixed; this model differs from the layouts that are supported"
        )
