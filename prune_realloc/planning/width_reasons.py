"""Why each width of an emitted network is what it is, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.shapes import EMBED_FLOOR, UNIFORM_FFN, Place, Shape, stage_growth
from prune_realloc.planning.sizing import Sizing
from prune_realloc.recipe.target import NetworkWidth

_NOT_MEASURED = "not measured, the source has no {} that can be cut"


@dataclass(frozen=True)
class Explained:
    """A shape that was decided, with the multiplier that it was decided by, ready to be explained."""

    sizing: Sizing
    shape: Shape
    multiplier: float

    def widths(self, control: EfficientVitConfig) -> dict[str, NetworkWidth]:
        """Every width beside the control's, with the number that it follows from."""
        return dict([*self._channels(control), *self._inside_blocks(control)])

    def _channels(self, control: EfficientVitConfig) -> Iterator[tuple[str, NetworkWidth]]:
        for stage, width in enumerate(self.shape.embed):
            kept = self.sizing.kept.stage[stage]
            found = NetworkWidth(
                width=width,
                control=control.embed_dim[stage],
                kept=round(kept, 4),
                reason=f"{self._wanted_channels(stage, kept)}; {self._channel_bound(stage, width)}",
            )
            yield site_name("embed", None, stage), found

    def _inside_blocks(self, control: EfficientVitConfig) -> Iterator[tuple[str, NetworkWidth]]:
        per_block = self.sizing.target.per == "block"
        for place in self.sizing.places:
            block = control.blocks[place.first]
            for component in ("qk", "v", "ffn"):
                found = NetworkWidth(
                    width=self.shape.inner[component, place],
                    control=getattr(block, component),
                    kept=self._share(component, place),
                    reason=self._reason(component, place),
                )
                yield place.name(component, per_block), found

    def _share(self, component: str, place: Place) -> float | None:
        share = self.sizing.kept.component.get((component, place))
        return None if share is None else round(share, 4)

    def _wanted_channels(self, stage: int, kept: float) -> str:
        wanted = self.sizing.wanted_embed(stage, self.multiplier)
        if not self.sizing.target.rule("embed").move:
            return f"does not move: {wanted:.1f}"
        uniform = self.multiplier * stage_growth(self.sizing.target, stage)
        return (
            f"all components kept {kept:.2f} times the network's mean there: {uniform:.1f} x {kept:.2f} = {wanted:.1f}"
        )

    def _channel_bound(self, stage: int, width: int) -> str:
        rule, step = self.sizing.target.rule("embed"), self.sizing.embed_step(stage)
        wanted = self.sizing.wanted_embed(stage, self.multiplier)
        if rule.ceiling is not None and wanted > rule.ceiling:
            return f"at its ceiling {rule.ceiling}, as a multiple of {step}"
        if wanted < (rule.floor or EMBED_FLOOR):
            return f"at its floor {rule.floor or EMBED_FLOOR}, as a multiple of {step}"
        return _rounding(width, wanted, step)

    def _reason(self, component: str, place: Place) -> str:
        rule = self.sizing.target.rule(component)
        per = f"embed / {self.sizing.heads[place.stage]} heads" if component != "ffn" else "embed"
        if rule.width is not None:
            return f"rule: width {rule.width}"
        if rule.ratio is not None:
            return f"rule: {rule.ratio:g} x {per}"
        if not rule.move:
            return f"does not move: {UNIFORM_FFN if component == 'ffn' else 1} x {per}"
        embed, width = self.shape.embed[place.stage], self.shape.inner[component, place]
        wanted = self.sizing.wanted(component, place, self.multiplier, embed)
        low, high = self.sizing.bounds(component, place, embed)
        measured = component in self.sizing.kept.whole
        start = self._kept(component, place, wanted) if measured else f"{_NOT_MEASURED.format(component)}: 1 x {per}"
        if wanted < low:
            more = ", and what rounding left of the budget" if width > ceil(low - 1e-9) else ""
            return f"{start}; at its floor {_bound(rule.floor, rule.floor_ratio, per, low)}{more}"
        if wanted > high:
            return f"{start}; at its ceiling {_bound(rule.ceiling, rule.ceiling_ratio, per, high)}"
        return f"{start}; {_rounding(width, wanted, rule.round_to)}" if measured else start

    def _kept(self, component: str, place: Place, wanted: float) -> str:
        kept, whole = self.sizing.kept.component[component, place], self.sizing.kept.whole[component]
        start = f"pruning kept {kept:.0%} there ({whole:.0%} everywhere)"
        if (component, place) in self.sizing.kept.elsewhere:
            start = f"not measured there; pruning kept {whole:.0%} everywhere"
        return f"{start}: {wanted / kept:.1f} x {kept:.2f} = {wanted:.1f}" if kept else start


def _bound(units: int | None, ratio: float | None, per: str, value: float) -> str:
    return f"{units}" if units is not None and units == value else f"{ratio:g} x {per} = {value:g}"


def _rounding(width: int, wanted: float, step: int) -> str:
    if abs(width - wanted) <= step / 2:
        return f"nearest multiple of {step}"
    return "takes what rounding left of the budget" if width > wanted else f"{step} less, to stay inside the budget"
