"""Why widths are what they are where only channels take more than their least: what one more step gains and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from prune_realloc.core.cost import KINDS
from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.channels import StageCosts
from prune_realloc.planning.curves import LAW, Curve
from prune_realloc.planning.retention import COMPONENTS
from prune_realloc.planning.shapes import UNIFORM_FFN, Place, Shape
from prune_realloc.recipe.target import NetworkWidth, TargetRule


@dataclass(frozen=True)
class ChannelsExplained:
    """A shape whose channels were decided by curves, ready to be explained."""

    costs: StageCosts
    shape: Shape
    curves: Sequence[Curve]

    def widths(self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None) -> dict[str, NetworkWidth]:
        """Every width beside the controls', with what one more step would gain and cost."""
        return dict([*self._channels(control, unmeasured), *self._inside_blocks(control, unmeasured)])

    def _channels(
        self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None
    ) -> Iterator[tuple[str, NetworkWidth]]:
        for stage, width in enumerate(self.shape.embed):
            rule = self.costs.sizing.target.rule_of("embed")
            found = NetworkWidth(
                width=width,
                control=control.embed_dim[stage],
                unmeasured=None if unmeasured is None else unmeasured.embed_dim[stage],
                bound=self._bound_of_channels(stage, rule),
                reason=self._reason_of_channels(stage, rule),
            )
            yield site_name("embed", None, stage), found

    def _inside_blocks(
        self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None
    ) -> Iterator[tuple[str, NetworkWidth]]:
        target = self.costs.sizing.target
        for place in self.costs.sizing.places:
            for component in COMPONENTS:
                rule = target.rule_of(component)
                at_least = not rule.fixed and rule.move and self._excess(component, place) == 0
                floored = rule.floor is not None or rule.floor_ratio is not None
                found = NetworkWidth(
                    width=self.shape.inner[component, place],
                    control=getattr(control.blocks[place.first], component),
                    unmeasured=None if unmeasured is None else getattr(unmeasured.blocks[place.first], component),
                    bound=("floor" if floored else "least") if at_least else None,
                    reason=self._reason_inside(component, place, rule),
                )
                yield place.name(component, target.per == "block"), found

    def _bound_of_channels(self, stage: int, rule: TargetRule) -> Literal["floor", "ceiling", "least"] | None:
        if not rule.move:
            return None
        width, step = self.shape.embed[stage], self.costs.steps[stage]
        if rule.ceiling is not None and width + step > rule.ceiling:
            return "ceiling"
        if width == self.costs.least[stage]:
            return "least" if rule.floor is None else "floor"
        return None

    def _reason_of_channels(self, stage: int, rule: TargetRule) -> str:
        if not rule.move:
            return "does not move: in the uniform network's proportions"
        width, curve = self.shape.embed[stage], self.curves[stage]
        beyond = curve is not LAW and width > curve.measured_to
        ruled = f"rule {self.costs.sizing.target.rule}" + (f", beyond the {curve.measured_to} measured" * beyond)
        lost, gain = curve.loss([width, width + self.costs.steps[stage]])
        bound = self._bound_of_channels(stage, rule)
        text = {
            "ceiling": f"at its ceiling {rule.ceiling}; ",
            "floor": f"at its floor {rule.floor}; ",
            "least": f"the least multiple of {self.costs.steps[stage]}; ",
        }.get(bound or "", "")
        cost = self._cost_of_step(stage)
        others = [other for other in range(len(self.curves)) if other != stage]
        elsewhere = max(others, key=self._gain_per_cost)
        return (
            f"{text}{ruled}: {self._amount(lost)} lost; {self.costs.steps[stage]} more gain {lost - gain:.2g}, cost "
            f"{self._cost(cost)}, worth {cost * self._gain_per_cost(elsewhere):.2g} in stage {elsewhere}"
        )

    def _reason_inside(self, component: str, place: Place, rule: TargetRule) -> str:
        per = f"embed / {self.costs.sizing.heads[place.stage]} heads" if component != "ffn" else "embed"
        if rule.width is not None:
            return f"rule: width {rule.width}"
        if rule.ratio is not None:
            return f"rule: {rule.ratio:g} x {per}"
        if not rule.move:
            return f"does not move: {UNIFORM_FFN if component == 'ffn' else 1} x {per}"
        if excess := self._excess(component, place):
            return f"takes {excess} above its least, which the multiples of the channels left of the budget"
        cost = self.shape.raised(component, place, rule.round_to).cost(self.costs.kind) - self._own_cost
        floored = rule.floor is not None or rule.floor_ratio is not None
        why = "at its floor" if floored else f"the least multiple of {rule.round_to}"
        if not self.costs.sizing.target.rule_of("embed").move:
            return why
        stage = max(range(len(self.curves)), key=self._gain_per_cost)
        worth = cost * self._gain_per_cost(stage)
        return (
            f"{why}; {rule.round_to} more cost {self._cost(cost)}, which gain {self._amount(worth)} as channels of "
            f"stage {stage}"
        )

    def _excess(self, component: str, place: Place) -> int:
        """Units above the least."""
        least = self.costs.shape(self.shape.embed).inner[component, place]
        return self.shape.inner[component, place] - least

    def _gain_per_cost(self, stage: int) -> float:
        """What a step of a stage's channels gains for each unit of cost; none where a ceiling forbids it."""
        width, step = self.shape.embed[stage], self.costs.steps[stage]
        if width + step > self.costs.sizing.embed_bounds(stage)[1]:
            return 0.0
        lost, then = self.curves[stage].loss([width, width + step])
        return float(lost - then) / self._cost_of_step(stage)

    def _cost_of_step(self, stage: int) -> int:
        embed = [width + (place == stage) * self.costs.steps[stage] for place, width in enumerate(self.shape.embed)]
        wider = self.costs.sizing.completed(Shape(self.shape.frame, self.shape.places, embed, self.shape.inner))
        return wider.cost(self.costs.kind) - self._own_cost

    @cached_property
    def _own_cost(self) -> int:
        return self.shape.cost(self.costs.kind)

    def _cost(self, cost: int) -> str:
        return f"{cost:,} {KINDS[self.costs.kind].label}"

    def _amount(self, loss: float) -> str:
        """In nats, or of the law's own measure."""
        return f"{loss:.2g} {'(of 1 / channels)' if self.curves[0] is LAW else 'nats'}"
