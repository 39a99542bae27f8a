"""An emitted network with its control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune_realloc.core.cost import Cost
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.target import Network

if TYPE_CHECKING:
    from prune_realloc.results.bench import Bench

REALLOCATED, CONTROL = "realloc", "control"
"""The two folders of an emitted variant."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A reallocated network and its control."""

    name: str
    """Folder under the output that holds both; empty: the output itself."""
    recipe: Recipe
    """What led to the two, with the decisions in `target.network`."""
    latency: Bench | None
    """Latency of both in their deploy form, untrained; None: not measured."""

    @property
    def network(self) -> Network:
        """What was decided about the two networks."""
        assert self.recipe.target is not None
        assert self.recipe.target.network is not None
        return self.recipe.target.network

    def configs(self) -> dict[str, EfficientVitConfig]:
        """Name of the network -> its configuration; the control first, as the other is compared with it."""
        return {
            CONTROL: EfficientVitConfig(**self.network.control_args),
            REALLOCATED: EfficientVitConfig(**self.network.args),
        }

    def components(self) -> dict[str, dict[str, Cost]]:
        """Network -> component -> cost, with the same components in both."""
        found = {name: config.component_costs for name, config in self.configs().items()}
        names = list(dict.fromkeys(part for costs in found.values() for part in costs))
        return {name: {part: costs.get(part, Cost()) for part in names} for name, costs in found.items()}
