"""Multiplier and rounding: from what pruning kept to the widths that spend a budget."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import ceil, inf, lcm, log
from typing import Any

from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.retention import Retention
from prune_realloc.planning.shapes import (
    EMBED_FLOOR,
    TOLERANCE,
    UNIFORM_FFN,
    Place,
    Shape,
    heads_per_stage,
    places_of,
    stage_growth,
)
from prune_realloc.recipe.target import NetworkWidth, Target


class Sizing:
    """The widths that a multiplier asks for, under the rules."""

    def __init__(self, target: Target, base: EfficientVitConfig, kept: Retention) -> None:
        self.target, self.base, self.kept = target, base, kept
        self.places = places_of(target)
        self.heads = heads_per_stage(base)

    def wanted_embed(self, stage: int, multiplier: float) -> float:
        tilt = self.kept.stage[stage] if self.target.rule("embed").move else 1.0
        return multiplier * stage_growth(self.target, stage) * tilt

    def wanted(self, component: str, place: Place, multiplier: float, embed: float) -> float:
        """Before rounding and bounds; `embed` is what the stage's channels came out as."""
        rule, per_head = self.target.rule(component), component != "ffn"
        unit = embed / self.heads[place.stage] if per_head else embed
        uniform = 1 if per_head else UNIFORM_FFN
        if rule.width is not None:
            return rule.width
        if rule.ratio is not None or not rule.move:
            return unit * (rule.ratio or uniform)
        plain = multiplier * stage_growth(self.target, place.stage) * uniform
        return plain * self.kept.component[component, place] / (self.heads[place.stage] if per_head else 1)

    def bounds(self, component: str, place: Place, embed: float) -> tuple[float, float]:
        rule = self.target.rule(component)
        unit = embed / self.heads[place.stage] if component != "ffn" else embed
        low = max(rule.floor or 1, (rule.floor_ratio or 0) * unit)
        high = min(rule.ceiling or 10**9, (rule.ceiling_ratio or 10**9) * unit)
        return low, high

    def step(self, component: str, stage: int) -> int:
        step = self.target.rule(component).round_to
        return lcm(step, self.heads[stage]) if component == "embed" else step

    def shape(self, multiplier: float) -> Shape:
        """Every width at its nearest multiple, inside its bounds."""
        embed = []
        for stage in range(len(self.base.depth)):
            rule, step = self.target.rule("embed"), self.step("embed", stage)
            wanted, most = self.wanted_embed(stage, multiplier), rule.ceiling or 10**9
            least = ceil((rule.floor or EMBED_FLOOR) / step) * step
            embed.append(max(min(round(wanted / step) * step, most // step * step), least))
        inner: dict[tuple[str, Place], int] = {}
        for place in self.places:
            for component in ("qk", "v", "ffn"):
                low, high = self.bounds(component, place, embed[place.stage])
                wanted = self.wanted(component, place, multiplier, embed[place.stage])
                inner[component, place] = self._rounded(component, wanted, low, high)
        return Shape(self.target, self.places, embed, inner)

    def _rounded(self, component: str, wanted: float, low: float, high: float) -> int:
        rule = self.target.rule(component)
        if rule.width is not None:
            return rule.width
        if rule.ratio is not None or not rule.move:
            return max(1, round(wanted))  # a ratio is exact; embed / heads is whole
        if wanted <= low:
            return ceil(low - 1e-9)  # bounds are exact too: V = embed / heads is worth more than a multiple of 8
        if wanted >= high:
            return max(1, int(high + 1e-9))
        nearest = round(wanted / rule.round_to) * rule.round_to
        return max(1, min(max(nearest, ceil(low - 1e-9)), int(high + 1e-9)))

    def at_budget(self, kind: str, limit: int) -> tuple[Shape, float]:
        """The widest shape within `limit`, spent to at least 99 %, and its multiplier."""
        cost = cache(lambda multiplier: self.shape(multiplier).cost(kind))
        low, high = 1.0, 2.0
        if cost(low) > limit:
            raise InputError(
                f"{kind}: the budget of {limit:,} is below the least that the rules allow, {cost(low):,} "
                f"(embed {list(self.shape(low).embed)}); raise it, or lower floors"
            )
        while cost(high) <= limit:
            low, high = high, 2 * high
            if high > 1e6:
                raise InputError(
                    f"{kind}: the rules leave at most {cost(low):,}, below the budget of {limit:,}; "
                    "lower it, or loosen ceilings"
                )
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(middle) <= limit else (low, middle)
        shape = self._filled(self.shape(low), low, kind, limit)
        if shape.cost(kind) < (1 - TOLERANCE) * limit:
            raise InputError(
                f"{kind}: {limit:,} asked for, {shape.cost(kind):,} is the nearest below that the "
                "multiples allow; lower a rule's round_to"
            )
        return shape, low

    def _filled(self, shape: Shape, multiplier: float, kind: str, limit: int) -> Shape:
        """What rounding left over goes, step by step, to the width that fell shortest and still fits."""
        while shape.cost(kind) < (1 - TOLERANCE / 4) * limit:
            for what, by in self._shortest_first(shape, multiplier):
                if (wider := self._settled(shape.raised(what, by))).cost(kind) <= limit:
                    shape = wider
                    break
            else:
                return self._swapped(shape, multiplier, kind, limit)
        return shape

    def _swapped(self, shape: Shape, multiplier: float, kind: str, limit: int) -> Shape:
        """Where every step is too long: one width a step up and another a step down, if that spends enough."""
        if shape.cost(kind) >= (1 - TOLERANCE) * limit:
            return shape
        ups = self._shortest_first(shape, multiplier)
        for up, by in ups:
            wider = self._settled(shape.raised(up, by))
            for down, _ in reversed(ups):  # the one that is the widest for what is wanted
                component, place = down
                step = self.step("embed", place) if component == "embed" else self.target.rule(component).round_to
                narrower = wider.raised(down, -step)
                if down == up or not self._allowed(narrower, component, place):
                    continue
                if (1 - TOLERANCE) * limit <= (found := self._settled(narrower)).cost(kind) <= limit:
                    return found
        return self._nearby(shape, multiplier, kind, limit)

    def _nearby(self, shape: Shape, multiplier: float, kind: str, limit: int) -> Shape:
        """Where rules leave little else to move: the channels within two steps that spend enough, nearest to wanted."""
        best, nearest = shape, inf
        for steps in product(range(-2, 3), repeat=len(shape.embed)):
            embed = [
                width + by * self.step("embed", stage)
                for stage, (width, by) in enumerate(zip(shape.embed, steps, strict=True))
            ]
            rule = self.target.rule("embed")
            if min(embed) < (rule.floor or EMBED_FLOOR) or max(embed) > (rule.ceiling or 10**9):
                continue
            off = sum(abs(log(width / self.wanted_embed(stage, multiplier))) for stage, width in enumerate(embed))
            found = self._settled(Shape(shape.target, shape.places, embed, shape.inner))
            if off < nearest and (1 - TOLERANCE) * limit <= found.cost(kind) <= limit:
                best, nearest = found, off
        return best

    def _allowed(self, shape: Shape, component: str, place: Any) -> bool:
        if component == "embed":
            rule = self.target.rule("embed")
            return shape.embed[place] >= (rule.floor or EMBED_FLOOR)
        low, _ = self.bounds(component, place, shape.embed[place.stage])
        return shape.inner[component, place] >= low

    def _shortest_first(self, shape: Shape, multiplier: float) -> list[tuple[tuple[str, Any], int]]:
        found: list[tuple[float, tuple[str, Any], int]] = []
        for stage, width in enumerate(shape.embed):
            step, most = self.step("embed", stage), self.target.rule("embed").ceiling or 10**9
            short = self.wanted_embed(stage, multiplier) / width
            if width + step <= most:
                found.append((short / (1 + step / width) ** 0.5, ("embed", stage), step))
        for (component, place), width in shape.inner.items():
            rule = self.target.rule(component)
            step = rule.round_to - width % rule.round_to
            low, high = self.bounds(component, place, shape.embed[place.stage])
            if rule.fixed or not rule.move or width + step > high:
                continue
            wanted = max(low, self.wanted(component, place, multiplier, shape.embed[place.stage]))
            found.append((wanted / width / (1 + step / width) ** 0.5, (component, place), step))
        # half a step past what is wanted is as good as half a step short of it
        return [(what, step) for _, what, step in sorted(found, key=lambda item: -item[0])]

    def _settled(self, shape: Shape) -> Shape:
        """With the widths that follow from embed, and floors met."""
        inner = dict(shape.inner)
        for (component, place), width in shape.inner.items():
            rule, embed = self.target.rule(component), shape.embed[place.stage]
            low, high = self.bounds(component, place, embed)
            if rule.ratio is not None or not rule.move:
                inner[component, place] = round(self.wanted(component, place, 1.0, embed))
            elif rule.width is None and width < low:
                inner[component, place] = self._rounded(component, low, low, high)
        return Shape(shape.target, shape.places, shape.embed, inner)

    def explained(
        self, shape: Shape, multiplier: float, control: EfficientVitConfig
    ) -> Iterator[tuple[str, NetworkWidth]]:
        """Every width with the number that it follows from."""
        per_block = self.target.per == "block"
        for stage, width in enumerate(shape.embed):
            kept = self.kept.stage[stage]
            wanted = self.wanted_embed(stage, multiplier)
            uniform = multiplier * stage_growth(self.target, stage)
            how = (
                (
                    f"all components kept {kept:.2f} times the network's mean there: {uniform:.1f} x {kept:.2f} = "
                    f"{wanted:.1f}"
                )
                if self.target.rule("embed").move
                else f"does not move: {wanted:.1f}"
            )
            yield (
                site_name("embed", None, stage),
                NetworkWidth(
                    width=width,
                    control=control.embed_dim[stage],
                    kept=round(kept, 4),
                    reason=f"{how}; {self._embed_bound(stage, width, wanted)}",
                ),
            )
        for place in self.places:
            block = control.blocks[place.first]
            for component in ("qk", "v", "ffn"):
                yield (
                    place.name(component, per_block),
                    NetworkWidth(
                        width=shape.inner[component, place],
                        control=getattr(block, component),
                        kept=round(self.kept.component[component, place], 4),
                        reason=self._reason(component, place, shape, multiplier),
                    ),
                )

    def _embed_bound(self, stage: int, width: int, wanted: float) -> str:
        rule, step = self.target.rule("embed"), self.step("embed", stage)
        if rule.ceiling is not None and wanted > rule.ceiling:
            return f"at its ceiling {rule.ceiling}, as a multiple of {step}"
        if wanted < (rule.floor or EMBED_FLOOR):
            return f"at its floor {rule.floor or EMBED_FLOOR}, as a multiple of {step}"
        return _rounding(width, wanted, step)

    def _reason(self, component: str, place: Place, shape: Shape, multiplier: float) -> str:
        rule, embed = self.target.rule(component), shape.embed[place.stage]
        per = f"embed / {self.heads[place.stage]} heads" if component != "ffn" else "embed"
        if rule.width is not None:
            return f"rule: width {rule.width}"
        if rule.ratio is not None:
            return f"rule: {rule.ratio:g} x {per}"
        if not rule.move:
            return f"does not move: {UNIFORM_FFN if component == 'ffn' else 1} x {per}"
        kept, whole = self.kept.component[component, place], self.kept.whole[component]
        wanted = self.wanted(component, place, multiplier, embed)
        low, high = self.bounds(component, place, embed)
        width, step = shape.inner[component, place], rule.round_to
        start = f"pruning kept {kept:.0%} there ({whole:.0%} everywhere)"
        if kept:
            start += f": {wanted / kept:.1f} x {kept:.2f} = {wanted:.1f}"
        if wanted < low:
            more = ", and what rounding left of the budget" if width > ceil(low - 1e-9) else ""
            return f"{start}; at its floor {_bound(rule.floor, rule.floor_ratio, per, low)}{more}"
        if wanted > high:
            return f"{start}; at its ceiling {_bound(rule.ceiling, rule.ceiling_ratio, per, high)}"
        return f"{start}; {_rounding(width, wanted, step)}"


def _bound(units: int | None, ratio: float | None, per: str, value: float) -> str:
    return f"{units}" if units is not None and units == value else f"{ratio:g} x {per} = {value:g}"


def _rounding(width: int, wanted: float, step: int) -> str:
    if abs(width - wanted) <= step / 2:
        return f"nearest multiple of {step}"
    return "takes what rounding left of the budget" if width > wanted else f"{step} less, to stay inside the budget"
