"""From the widths that a trained EfficientViT keeps to those of the next one of equal cost. No torch here.

In the manner of MorphNet (Gordon et al., CVPR 2018): every width is that of the trained network times the share of it
that pruning kept, and all of them are scaled by one multiplier until the budget is met. Channels of a stage have the
share of all units that were measured in its blocks, so what keeps one share everywhere stays as it is. What was not
measured keeps its relation to the channels of its stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.retention import Retention
from prune_realloc.planning.shapes import Place, heads_per_stage, runs_of_blocks
from prune_realloc.planning.sizing import Sizing, Start
from prune_realloc.planning.spending import at_budget
from prune_realloc.recipe.target import Target

COMPONENTS = ("qk", "v", "ffn")
_FRAME = (
    "img_size",
    "in_chans",
    "num_classes",
    "stem_strides",
    "depth",
    "num_heads",
    "num_ffns",
    "window_size",
    "kernels",
    "distillation",
)
"""Arguments of `EfficientVitConfig` that are no widths."""


def grown(
    config: EfficientVitConfig, kept: Mapping[str, float], target: Target, kind: str, limit: int
) -> EfficientVitConfig:
    """The network of the same depth and heads whose widths follow from what this one keeps.

    Args:
        config: the trained network.
        kept: a block's name in `config.widths`, such as blocks.3.ffn -> the share of its units that pruning kept; what
            was not measured is missing.
        target: its rules bound the widths; blocks share theirs as it says, where those of `config` do so too.
        kind, limit: what the network may cost.

    Raises:
        InputError: the rules leave no such network.
    """
    places = runs_of_blocks(config.depth, _shared_by(config, target))
    sizing = Sizing(target, _start(config, places), _retention(config, kept, places))
    return at_budget(sizing, kind, limit)[0].config()


def unmeasured(kept: Mapping[str, float]) -> tuple[str, ...]:
    """The components that have no share kept anywhere."""
    return tuple(name for name in COMPONENTS if not any(site.endswith(f".{name}") for site in kept))


def _shared_by(config: EfficientVitConfig, target: Target) -> str:
    """What shares its widths: a stage or a block."""
    alike = {(block.stage, block.qk, block.v, block.ffn) for block in config.blocks}
    return target.per if len(alike) == len(config.depth) else "block"


def _start(config: EfficientVitConfig, places: list[Place]) -> Start:
    heads, unit = heads_per_stage(config), config.embed_dim[0]
    inner: dict[tuple[str, Place], float] = {}
    for place in places:
        block = config.blocks[place.first]
        for component, width in (("qk", block.heads * block.qk), ("v", block.heads * block.v), ("ffn", block.ffn)):
            inner[component, place] = width / unit
    return Start(
        frame={name: getattr(config, name) for name in _FRAME},
        places=places,
        heads=heads,
        embed=[width / unit for width in config.embed_dim],
        inner=inner,
    )


def _retention(config: EfficientVitConfig, kept: Mapping[str, float], places: list[Place]) -> Retention:
    """The shares kept at the network's own places; channels have that of all units of their stage."""
    whole = {
        component: fmean(shares)
        for component in COMPONENTS
        if (shares := _shares(kept, component, range(len(config.blocks))))
    }
    component = {
        (name, place): fmean(_shares(kept, name, range(place.first, place.first + place.blocks)) or [everywhere])
        for name, everywhere in whole.items()
        for place in places
    }
    stages = range(len(config.depth))
    stage = tuple(_units_share(config, kept, [one]) or _units_share(config, kept, stages) or 1.0 for one in stages)
    return Retention(component=component, stage=stage, whole=whole)


def _units_share(config: EfficientVitConfig, kept: Mapping[str, float], stages: Sequence[int]) -> float | None:
    """Share kept of all units of all blocks of these stages; None where none were measured."""
    had = left = 0.0
    for number, block in enumerate(config.blocks):
        units = {"qk": block.heads * block.qk, "v": block.heads * block.v, "ffn": 2 * block.num_ffns * block.ffn}
        for component, count in units.items() if block.stage in stages else ():
            share = kept.get(site_name(component, number))
            if share is not None:
                had, left = had + count, left + count * share
    return left / had if had else None


def _shares(kept: Mapping[str, float], component: str, blocks: range) -> list[float]:
    names = (site_name(component, block) for block in blocks)
    return [kept[name] for name in names if name in kept]
