"""Which modules of a network are its attention, its FFN and its patch merging, by what its sites say; not by names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from torch import nn

from prune_realloc.core.structure import Site, Structure, common_module, site_place
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, inner_of
from prune_realloc.pruning.sites import find_sites

ATTENTION, FFN, MERGING = "attention", "FFN", "patch merging"
STEM, HEAD, REST = "stem", "head", "rest"
COMPONENTS = (STEM, ATTENTION, FFN, MERGING, HEAD, REST)
_OF_AXIS = {"heads": ATTENTION, "qk": ATTENTION, "v": ATTENTION, "ffn": FFN, "hidden": FFN}


@dataclass(frozen=True)
class Regions:
    """Names of modules, as they are in the network that was asked about."""

    components: Mapping[str, str]
    """Module -> attention, FFN or patch merging; a module inside another counts for itself."""
    blocks: frozenset[str]
    """The modules of the blocks: what runs before the first is the stem, what runs after the last the head."""


def find_regions(model: nn.Module) -> Regions:
    """The regions of a supported network.

    A branch is what the units are that lie in it. Where there are no branches, and between two streams, it is the
    largest modules whose parameters are of one component.

    Raises:
        InputError: no family supports the network.
    """
    whole = adopted(model)
    inner = inner_of(whole)
    sites, structure = find_sites(model), family_of(inner).describe(inner)
    of_site = _component_of_sites(sites, structure)
    labels = _labels(sites, of_site)
    branches = dict(_branches(structure, of_site, labels))
    at = next(name for name, module in whole.named_modules() if module is inner)
    known = {name for name, _ in model.named_modules()}
    prefix = f"{at}." if at else ""

    def here(name: str) -> str:
        """The module, or the one around it that the network has, where PyTorch's attention was exchanged."""
        name = prefix + name
        while name not in known:
            name = name.rpartition(".")[0]
        return name

    alone = {name for name in labels if not _inside(name, branches)}
    found = dict(_purest(inner, labels, alone)) | branches
    return Regions(
        {here(name): component for name, component in found.items()},
        frozenset(here(name) for name in _blocks(sites, structure)),
    )


def _component_of_sites(sites: Iterable[Site], structure: Structure) -> dict[str, str]:
    """Site -> its component; hidden channels that no branch reads lie in the stem, or where nothing is known."""
    crossed = {site_place(crossing.site)[1] for crossing in structure.crossings} - {None}
    read = {branch.site for branch in structure.branches}
    found = {}
    for site in sites:
        component = _OF_AXIS.get(site.axis)
        if component == FFN and site.block in crossed:
            found[site.name] = MERGING
        elif component and (site.axis != "hidden" or site.name in read):
            found[site.name] = component
    return found


def _branches(structure: Structure, of_site: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Branch -> its component: attention where units of attention lie in it, whatever its writer reads."""
    for branch in structure.branches:
        inside = {label for name, label in labels.items() if _inside(name, [branch.name])}
        component = ATTENTION if ATTENTION in inside else of_site.get(branch.site)
        if component:
            yield branch.name, component


def _labels(sites: Iterable[Site], of_site: Mapping[str, str]) -> dict[str, str]:
    """Parameter -> its component, where it has one: what has two streams and no units inside merges patches."""
    inside: dict[str, set[str]] = {}
    streams: dict[str, set[str]] = {}
    for site in sites:
        for part in site.slices:
            if site.name in of_site:
                inside.setdefault(part.parameter, set()).add(of_site[site.name])
            elif site.axis == "embed":
                streams.setdefault(part.parameter, set()).add(site.name)
    between = {name: {MERGING} for name, read in streams.items() if len(read) > 1}
    return {name: next(iter(kinds)) for name, kinds in (between | inside).items() if len(kinds) == 1}


def _purest(model: nn.Module, labels: Mapping[str, str], alone: Set[str], name: str = "") -> Iterator[tuple[str, str]]:
    """The outermost modules that are called and whose labelled parameters are all of one component.

    Args:
        alone: the parameters that need a module, since they lie in no branch.
    """
    inside = [parameter for parameter in labels if not name or _inside(parameter, [name])]
    if not alone & set(inside):
        return
    kinds, module = {labels[parameter] for parameter in inside}, model.get_submodule(name)
    if name and len(kinds) == 1 and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield name, next(iter(kinds))
        return
    for child, _ in module.named_children():
        yield from _purest(model, labels, alone, f"{name}.{child}" if name else child)


def _inside(parameter: str, modules: Iterable[str]) -> bool:
    return any(parameter.startswith(f"{module}.") for module in modules)


def _blocks(sites: Iterable[Site], structure: Structure) -> Iterator[str]:
    """The innermost module around all parameters of each block; of a network without branches, of each with sites."""
    numbers: set[int | None] = {branch.block for branch in structure.branches} or {site.block for site in sites}
    parameters: dict[int, list[str]] = {}
    for site in sites:
        if site.block in numbers and site.block is not None:
            parameters.setdefault(site.block, []).extend(part.parameter for part in site.slices)
    for names in parameters.values():
        around = common_module(names)
        if around:
            yield around
