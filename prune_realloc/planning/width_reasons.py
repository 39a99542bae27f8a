"""Why each width of an emitted network is what it is, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.retention import COMPONENTS
from prune_realloc.planning.shapes import UNIFORM_FFN, Place, Shape, stage_growth
from prune_realloc.planning.sizing import Sizing
from prune_realloc.recipe.target import NetworkWidth, TargetRule

_NOT_MEASURED = "not measured, the source has no {} that can be cut"
_Bound = Literal["floor", "ceiling", "least"] | None
"""As `NetworkWidth.bound`."""


@dataclass(frozen=True)
class Explained:
    """A shape that was decided, with the multiplier that it was decided by, ready to be explained."""

    sizing: Sizing
    shape: Shape
    multiplier: float

    def widths(self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None) -> dict[str, NetworkWidth]:
        """Every width beside the controls', with the number that it follows from."""
        return dict([*self._channels(control, unmeasured), *self._inside_blocks(control, unmeasured)])

    def _channels(
        self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None
    ) -> Iterator[tuple[str, NetworkWidth]]:
        for stage, width in enumerate(self.shape.embed):
            kept = self.sizing.kept.stage[stage]
            bound, why = self._channel_bound(stage, width)
            found = NetworkWidth(
                width=width,
                control=control.embed_dim[stage],
                unmeasured=None if unmeasured is None else unmeasured.embed_dim[stage],
                kept=round(kept, 4),
                bound=bound,
                reason=f"{self._wanted_channels(stage, kept)}; {why}",
            )
            yield site_name("embed", None, stage), found

    def _inside_blocks(
        self, control: EfficientVitConfig, unmeasured: EfficientVitConfig | None
    ) -> Iterator[tuple[str, NetworkWidth]]:
        per_block = self.sizing.target.per == "block"
        for place in self.sizing.places:
            for component in COMPONENTS:
                bound, reason = self._reason(component, place)
                found = NetworkWidth(
                    width=self.shape.inner[component, place],
                    control=getattr(control.blocks[place.first], component),
                    unmeasured=None if unmeasured is None else getattr(unmeasured.blocks[place.first], component),
                    kept=self._share(component, place),
                    bound=bound,
                    reason=reason,
                )
                yield place.name(component, per_block), found

    def _share(self, component: str, place: Place) -> float | None:
        share = self.sizing.kept.component.get((component, place))
        return None if share is None else round(share, 4)

    def _wanted_channels(self, stage: int, kept: float) -> str:
        wanted = self.sizing.wanted_embed(stage, self.multiplier)
        if not self.sizing.target.rule_of("embed").move:
            return f"does not move: {wanted:.1f}"
        uniform = self.multiplier * stage_growth(self.sizing.target, stage)
        reading = "all components kept" if self.sizing.target.rule == "kept" else self._ruled
        return f"{reading} {kept:.2f} times the network's mean there: {uniform:.1f} x {kept:.2f} = {wanted:.1f}"

    def _channel_bound(self, stage: int, width: int) -> tuple[_Bound, str]:
        rule, step = self.sizing.target.rule_of("embed"), self.sizing.embed_step(stage)
        wanted = self.sizing.wanted_embed(stage, self.multiplier)
        if rule.ceiling is not None and wanted > rule.ceiling:
            return "ceiling", f"at its ceiling {rule.ceiling}, as a multiple of {step}"
        if rule.floor is not None and wanted < rule.floor:
            return "floor", f"at its floor {rule.floor}, as a multiple of {step}"
        if wanted < width == step:
            return "least", _least(step)
        return None, _rounding(width, wanted, step)

    def _reason(self, component: str, place: Place) -> tuple[_Bound, str]:
        """What bounds the width of a component, and how it follows."""
        rule = self.sizing.target.rule_of(component)
        per = f"embed / {self.sizing.heads[place.stage]} heads" if component != "ffn" else "embed"
        if rule.width is not None:
            return None, f"rule: width {rule.width}"
        if rule.ratio is not None:
            return None, f"rule: {rule.ratio:g} x {per}"
        if not rule.move:
            return None, f"does not move: {UNIFORM_FFN if component == 'ffn' else 1} x {per}"
        embed, width = self.shape.embed[place.stage], self.shape.inner[component, place]
        wanted = self.sizing.wanted(component, place, self.multiplier, embed)
        low, high = self.sizing.bounds(component, place, embed)
        measured = component in self.sizing.kept.whole
        start = self._kept(component, place, wanted) if measured else f"{_NOT_MEASURED.format(component)}: 1 x {per}"
        bound = _bound(rule, wanted, low, high)
        if bound is None:
            return None, f"{start}; {_rounding(width, wanted, rule.round_to)}" if measured else start
        text = f"{start}; {_bound_words(bound, rule, per, low if bound == 'floor' else high)}"
        if bound == "ceiling" or width == ceil(low - 1e-9):
            return bound, text
        return (bound if bound == "floor" else None), f"{text}, and what rounding left of the budget"

    @property
    def _ruled(self) -> str:
        return f"rule {self.sizing.target.rule} gives"

    def _kept(self, component: str, place: Place, wanted: float) -> str:
        kept, whole = self.sizing.kept.component[component, place], self.sizing.kept.whole[component]
        start = f"pruning kept {kept:.0%} there ({whole:.0%} everywhere)"
        if self.sizing.target.rule != "kept":
            start = f"{self._ruled} {kept:.0%} there"
        elif (component, place) in self.sizing.kept.elsewhere:
            start = f"not measured there; pruning kept {whole:.0%} everywhere"
        return f"{start}: {wanted / kept:.1f} x {kept:.2f} = {wanted:.1f}" if kept else start


def _bound(rule: TargetRule, wanted: float, low: float, high: float) -> _Bound:
    """What of the rule decides the width inside a block in place of what is wanted."""
    floored = rule.floor is not None or rule.floor_ratio is not None
    if wanted < low and (floored or high >= rule.round_to):
        return "floor" if floored else "least"
    return "ceiling" if wanted > high or low > wanted else None


def _least(step: int) -> str:
    return f"the least multiple of {step}"


def _bound_words(bound: str, rule: TargetRule, per: str, value: float) -> str:
    if bound == "least":
        return _least(rule.round_to)
    units, ratio = getattr(rule, bound), getattr(rule, f"{bound}_ratio")
    return f"at its {bound} " + (f"{units}" if units == value else f"{ratio:g} x {per} = {value:g}")


def _rounding(width: int, wanted: float, step: int) -> str:
    if abs(width - wanted) <= step / 2:
        return f"nearest multiple of {step}"
    return "takes what rounding left of the budget" if width > wanted else f"{step} less, to stay inside the budget"
