"""An emitted network with its controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune_realloc.core.cost import Cost
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.rules import RULES
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.target import Network

if TYPE_CHECKING:
    from prune_realloc.results.bench import Bench

REALLOCATED, CONTROL, UNMEASURED = "realloc", "control", "unmeasured"
NETWORKS = (REALLOCATED, CONTROL, UNMEASURED)
"""The folders of an emitted variant."""
LATENCY_FILE = "latency.json"
"""Beside the reallocated network: the latency of all, where it was measured."""


READINGS = {
    "stream": "everything inside blocks at its least, channels by the damage curve of the source's stream",
    "swapped": "a control of stream: everything inside blocks at its least, channels by curves of any components",
    "kept": "every width by the share that pruning kept there",
    "shuffled": "a control of kept: the shares that pruning kept, at other places",
    "inverted": "a control of kept: what pruning kept most is given least",
    "unmeasured": "no measurement: everything inside blocks at its least, channels by the law 1 / channels",
}
"""Rule -> what the widths follow from."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A reallocated network, its uniform control and, where the rules leave one, the unmeasured network."""

    name: str
    """Folder under the output that holds them; empty: the output itself."""
    recipe: Recipe
    """What led to them, with the decisions in `target.network`."""
    latency: Bench | None
    """Latency of all in their deploy form, untrained; None: not measured."""

    @property
    def network(self) -> Network:
        """What was decided about the networks."""
        assert self.recipe.target is not None
        assert self.recipe.target.network is not None
        return self.recipe.target.network

    @property
    def rule(self) -> str:
        """What the widths follow from; older recipes do not tell, they are of `kept`."""
        assert self.recipe.target is not None
        return self.recipe.target.rule or "kept"

    def channels_stay(self) -> bool:
        """Are channels in the uniform proportions though the rule would decide them alone?"""
        assert self.recipe.target is not None
        return self.rule not in RULES and not self.recipe.target.rule_of("embed").move

    def beyond_measured(self) -> list[int]:
        """The stages whose channels are more than their damage curve says something of."""
        assert self.recipe.target is not None
        curves = self.recipe.target.curves or ()
        embed = self.network.args["embed_dim"]
        each = curves if len(curves) == len(embed) else curves * len(embed)
        return [stage for stage, points in enumerate(each) if embed[stage] > points[-1][0]]

    def configs(self) -> dict[str, EfficientVitConfig]:
        """Name of the network -> its configuration; the control first, as the others are compared with it."""
        found = {CONTROL: self.network.control_args, REALLOCATED: self.network.args}
        if self.network.unmeasured_args is not None:
            found[UNMEASURED] = self.network.unmeasured_args
        return {name: EfficientVitConfig(**args) for name, args in found.items()}

    def components(self) -> dict[str, dict[str, Cost]]:
        """Network -> component -> cost, with the same components in all."""
        found = {name: config.component_costs for name, config in self.configs().items()}
        names = list(dict.fromkeys(part for costs in found.values() for part in costs))
        return {name: {part: costs.get(part, Cost()) for part in names} for name, costs in found.items()}
