"""What a plan keeps of an EfficientViT (MSRA), by the widths of its configuration.

The sites of its trace are numbered by what the trace found; the weights in which their units lie tell which width of
the configuration they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from prune_realloc.core.structure import Site, site_name
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.pruning.sites import find_sites
from prune_realloc.recipe.plan import SitePlan

_BLOCK = re.compile(
    r"stages\.(\d+)\.blocks\.(\d+)\.(?:mixer\.m\.attn\.qkvs\.\d+|(?:before|after)\.\d+\.ffn\.m\.up)\.conv\.weight"
)


def kept_shares(net: EfficientVit, plan: Mapping[str, SitePlan]) -> dict[str, float]:
    """Name of a block's width in `EfficientVitConfig.widths` -> share of its units that a plan keeps.

    What has no site of its own is missing: the values of a cascade go with the stream.
    """
    had: dict[str, float] = defaultdict(float)
    left: dict[str, float] = defaultdict(float)
    for site in find_sites(net):
        for name in _widths_of(site, net.config):
            had[name] += site.units
            left[name] += site.units * plan[site.name].width / plan[site.name].of
    return {name: left[name] / units for name, units in had.items()}


def _widths_of(site: Site, config: EfficientVitConfig) -> Iterator[str]:
    """The width that the units of a site are part of, once for each weight whose rows they are."""
    for name in sorted({part.parameter for part in site.slices if part.dim == 0}):
        if (found := _BLOCK.fullmatch(name)) and site.axis == ("qk" if ".qkvs." in name else "ffn"):
            yield site_name(site.axis, sum(config.depth[: int(found[1])]) + int(found[2]))
