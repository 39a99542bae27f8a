"""From what pruning kept to the widths of a new EfficientViT, and the uniform control of equal cost. No torch here.

The uniform network has Q = K = V = embed / heads, FFN ratio 4 and the same growth of channels from stage to stage. A
pruned source says which share of each component it kept, in which part of its depth. The reallocated network is the
uniform one with every width scaled by that share, and the whole scaled by one multiplier until it meets the budget:
the shape of the pruned network at another size. Channels of a stage follow the share that all components of that part
of the source kept, relative to the whole source, and the share of the stream itself where it was pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from math import ceil, inf, lcm, log, prod
from typing import Any, Literal

from prune_realloc.cost import Cost
from prune_realloc.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.errors import InputError
from prune_realloc.recipe import SitePlan
from prune_realloc.structure import site_name, site_place
from prune_realloc.target import Network, NetworkWidth, Target

TOLERANCE = 0.01
"""The network spends at most so much less than its budget, and never more; the control differs from it by no more."""
UNIFORM_FFN = 4
"""Hidden units of a uniform network's FFN, as a multiple of its channels."""
EMBED_FLOOR = 8
"""Channels of a stage, where no rule says more."""
MERGE = 4
"""Hidden channels of a patch merging, as a multiple of the channels before it, as in the paper."""


@dataclass(frozen=True)
class Place:
    """A run of blocks of the target that share their widths."""

    stage: int
    first: int
    """Number of its first block, counted through all stages."""
    blocks: int

    def name(self, component: str, per_block: bool) -> str:
        return site_name(component, self.first) if per_block else site_name(component, None, self.stage)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Share of the source's units that pruning kept."""

    component: Mapping[tuple[str, Place], float]
    """Of Q/K, V and FFN, in the part of the source that lies at the place's depth."""
    stage: tuple[float, ...]
    """Of the channels of each stage: of the source's stream there, times all components there over all everywhere."""
    whole: Mapping[str, float]
    """Of each component, everywhere."""


# -- what pruning kept ----------------------------------------------------------------------------------------


def retention(sites: Mapping[str, SitePlan], target: Target) -> Retention:
    """Read a plan at the depths of the target's stages or blocks.

    A block of the source belongs to the parts of the target that lie at the same relative depth; one that lies in two
    parts counts in both, by its share.

    Raises:
        InputError: the plan lacks Q/K, V or FFN.
    """
    blocks = 1 + max((block for _, block in map(site_place, sites) if block is not None), default=-1)
    missing = [axis for axis in ("qk", "v", "ffn") if not any(site_name(axis, b) in sites for b in range(blocks))]
    if missing:
        raise InputError(f"the analysis has no {' and no '.join(missing)}; reallocation needs qk, v and ffn of a "
                         "Vision Transformer")  # fmt: skip
    places = _places(target)
    depth = sum(place.blocks for place in places)

    def share(axes: Sequence[str], start: float, end: float) -> float:
        kept = of = 0.0
        for block in range(blocks):
            overlap = min(end, (block + 1) / blocks) - max(start, block / blocks)
            for axis in axes if overlap > 1e-12 else ():
                units = _units(sites, axis, block)
                kept, of = kept + overlap * units[0], of + overlap * units[1]
        if not of:
            raise InputError(f"the source has no {' and no '.join(axes)} from {start:.0%} to {end:.0%} of its "
                             "depth; reallocation needs them in every block")  # fmt: skip
        return kept / of

    component: dict[tuple[str, Place], float] = {}
    for place in places:
        start, end = place.first / depth, (place.first + place.blocks) / depth
        for axis in ("qk", "v", "ffn"):
            component[axis, place] = share((axis,), start, end)
    everything, streams = share(("qk", "v", "ffn"), 0, 1), _streams(sites)
    if not everything:
        raise InputError("pruning kept nothing of the source, so it shows nothing; raise its budget")
    stage, first = [], 0
    depths = _base(target).depth
    for index, count in enumerate(depths):
        here = share(("qk", "v", "ffn"), first / depth, (first + count) / depth)
        stage.append(_stream_share(streams, index / len(depths), (index + 1) / len(depths)) * here / everything)
        first += count
    whole: dict[str, float] = {axis: share((axis,), 0, 1) for axis in ("qk", "v", "ffn")}
    return Retention(component=component, stage=tuple(stage), whole=whole)


def _units(sites: Mapping[str, SitePlan], axis: str, block: int) -> tuple[float, float]:
    """(kept, had) in one block, of all heads; what a head loses counts as lost of its Q/K and V."""
    site = sites.get(site_name(axis, block))
    if site is None:
        return 0.0, 0.0
    heads = sites.get(site_name("heads", block)) if axis in ("qk", "v") else None
    if heads is None:
        return site.width * (site.groups or 1), site.of * (site.groups or 1)
    return site.width * heads.width, site.of * heads.of


def _streams(sites: Mapping[str, SitePlan]) -> list[float]:
    """Share kept of each residual stream, in the order of the source's stages."""
    return [site.width / site.of for name, site in sites.items() if site_place(name)[0] == "embed"] or [1.0]


def _stream_share(streams: Sequence[float], start: float, end: float) -> float:
    count, total = len(streams), 0.0
    for index, share in enumerate(streams):
        total += share * max(0.0, min(end, (index + 1) / count) - max(start, index / count))
    return total / (end - start)


# -- the target -----------------------------------------------------------------------------------------------


def _base(target: Target) -> EfficientVitConfig:
    """`like` on the target's images; the sizes that are not set here are the paper's."""
    return EfficientVitConfig(**(SIZES[target.like] | _outside(target)))


def _heads(base: EfficientVitConfig) -> list[int]:
    """Of each stage; the paper's sizes have one number for all its blocks."""
    return [next(block.heads for block in base.blocks if block.stage == stage) for stage in range(len(base.depth))]


def _outside(target: Target) -> dict[str, Any]:
    """What lies outside the blocks: images, stem, classes."""
    size = target.img_size or 224
    strides = target.stem_strides or stem_strides(size)
    sides = [ceil(size / prod(strides) / 2**stage) for stage in range(len(SIZES[target.like]["embed_dim"]))]
    found: dict[str, Any] = {"img_size": size, "stem_strides": strides, "window_size": [*map(window, sides)]}
    found |= {"in_chans": target.in_chans} if target.in_chans is not None else {}
    return found | ({"num_classes": target.num_classes} if target.num_classes is not None else {})


def stem_strides(img_size: int) -> tuple[int, ...]:
    """So many convolutions of stride 2 that the first stage comes nearest to the paper's 14 x 14 tokens; 2 at least."""
    count = min(range(5), key=lambda n: abs(ceil(img_size / 2**n) - 14))
    return (2,) * count + (1,) * (2 - count)


def _places(target: Target) -> list[Place]:
    depths = _base(target).depth
    firsts = [sum(depths[:stage]) for stage in range(len(depths))]
    if target.per == "stage":
        return [Place(stage, first, count) for stage, (first, count) in enumerate(zip(firsts, depths, strict=True))]
    return [Place(stage, first + i, 1) for stage, (first, count) in enumerate(zip(firsts, depths, strict=True))
            for i in range(count)]  # fmt: skip


def window(side: int) -> int:
    """Side of the windows on a feature map: near the paper's 7, without padding that would be attended to in vain."""
    return ceil(side / max(1, round(side / 7)))


class _Shape:
    """All widths of one network that is being sized, as integers, and what they cost."""

    def __init__(self, target: Target, places: Sequence[Place], embed: Sequence[int],
                 inner: Mapping[tuple[str, Place], int]) -> None:  # fmt: skip
        self.target, self.places, self.embed, self.inner = target, places, tuple(embed), dict(inner)

    def args(self) -> dict[str, Any]:
        """Arguments of `EfficientVitConfig`."""
        base = SIZES[self.target.like]
        found = {key: base[key] for key in ("depth", "num_heads", "kernels") if key in base} | _outside(self.target)
        found |= {"embed_dim": self.embed, "merge_dim": [MERGE * width for width in self.embed[:-1]]}
        for component, name in (("qk", "qk_dim"), ("v", "v_dim"), ("ffn", "ffn_dim")):
            stages: list[list[int]] = [[] for _ in self.embed]
            for place in self.places:
                stages[place.stage] += [self.inner[component, place]] * place.blocks
            found[name] = stages
        # the FFNs around a patch merging have the ratio of the stage that they belong to
        ratios = [sum(widths) / len(widths) / embed for widths, embed in zip(found["ffn_dim"], self.embed, strict=True)]
        hidden = [max(8, round(ratio * width / 8) * 8) for ratio, width in zip(ratios, self.embed, strict=True)]
        found["merge_ffn_dim"] = [list(pair) for pair in pairwise(hidden)]
        return found

    def config(self) -> EfficientVitConfig:
        return EfficientVitConfig(**self.args())

    def cost(self, kind: str) -> int:
        cost: Cost = self.config().cost
        return cost.macs if kind == "macs" else cost.params

    def raised(self, what: tuple[str, Any], by: int) -> _Shape:
        if what[0] == "embed":
            embed = [width + by * (stage == what[1]) for stage, width in enumerate(self.embed)]
            return _Shape(self.target, self.places, embed, self.inner)
        return _Shape(self.target, self.places, self.embed, self.inner | {what: self.inner[what] + by})


# -- reallocation ---------------------------------------------------------------------------------------------


def reallocate(sites: Mapping[str, SitePlan], target: Target) -> Network:
    """Widths of the target at its budget, each with its reason, and the uniform control.

    Args:
        sites: what pruning kept, site name -> width and width of the source, as `planner.plan` or a planned recipe has
            it.

    Raises:
        InputError: the budget cannot be met under the rules, or the sites lack what reallocation reads.
    """
    base, kept = _base(target), retention(sites, target)
    kind: Literal["macs", "params"] = "params" if target.params is not None else "macs"
    like = base.cost.macs if kind == "macs" else base.cost.params
    limit = target.params or target.macs or like
    sizing = _Sizing(target, base, kept)
    shape, multiplier = sizing.at_budget(kind, limit)
    config = shape.config()
    control = uniform_control(target, config.cost, kind)
    return Network(
        kind=kind, requested=limit, macs=config.cost.macs, params=config.cost.params,
        control_macs=control.cost.macs, control_params=control.cost.params,
        widths=dict(sizing.explained(shape, multiplier, control)),
        args=config.args(), control_args=control.args(),
    )  # fmt: skip


class _Sizing:
    """The widths that a multiplier asks for, under the rules."""

    def __init__(self, target: Target, base: EfficientVitConfig, kept: Retention) -> None:
        self.target, self.base, self.kept = target, base, kept
        self.places = _places(target)
        self.heads = _heads(base)

    def wanted_embed(self, stage: int, multiplier: float) -> float:
        tilt = self.kept.stage[stage] if self.target.rule("embed").move else 1.0
        return multiplier * _growth(self.target, stage) * tilt

    def wanted(self, component: str, place: Place, multiplier: float, embed: float) -> float:
        """Before rounding and bounds; `embed` is what the stage's channels came out as."""
        rule, per_head = self.target.rule(component), component != "ffn"
        unit = embed / self.heads[place.stage] if per_head else embed
        uniform = 1 if per_head else UNIFORM_FFN
        if rule.width is not None:
            return rule.width
        if rule.ratio is not None or not rule.move:
            return unit * (rule.ratio or uniform)
        plain = multiplier * _growth(self.target, place.stage) * uniform
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

    def shape(self, multiplier: float) -> _Shape:
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
        return _Shape(self.target, self.places, embed, inner)

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

    def at_budget(self, kind: str, limit: int) -> tuple[_Shape, float]:
        """The widest shape within `limit`, spent to at least 99 %, and its multiplier."""
        cost = cache(lambda multiplier: self.shape(multiplier).cost(kind))
        low, high = 1.0, 2.0
        if cost(low) > limit:
            raise InputError(f"{kind}: the budget of {limit:,} is below the least that the rules allow, {cost(low):,} "
                             f"(embed {list(self.shape(low).embed)}); raise it, or lower floors")  # fmt: skip
        while cost(high) <= limit:
            low, high = high, 2 * high
            if high > 1e6:
                raise InputError(f"{kind}: the rules leave at most {cost(low):,}, below the budget of {limit:,}; "
                                 "lower it, or loosen ceilings")  # fmt: skip
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(middle) <= limit else (low, middle)
        shape = self._filled(self.shape(low), low, kind, limit)
        if shape.cost(kind) < (1 - TOLERANCE) * limit:
            raise InputError(f"{kind}: {limit:,} asked for, {shape.cost(kind):,} is the nearest below that the "
                             "multiples allow; lower a rule's round_to")  # fmt: skip
        return shape, low

    def _filled(self, shape: _Shape, multiplier: float, kind: str, limit: int) -> _Shape:
        """What rounding left over goes, step by step, to the width that fell shortest and still fits."""
        while shape.cost(kind) < (1 - TOLERANCE / 4) * limit:
            for what, by in self._shortest_first(shape, multiplier):
                if (wider := self._settled(shape.raised(what, by))).cost(kind) <= limit:
                    shape = wider
                    break
            else:
                return self._swapped(shape, multiplier, kind, limit)
        return shape

    def _swapped(self, shape: _Shape, multiplier: float, kind: str, limit: int) -> _Shape:
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

    def _nearby(self, shape: _Shape, multiplier: float, kind: str, limit: int) -> _Shape:
        """Where rules leave little else to move: the channels within two steps that spend enough, nearest to wanted."""
        best, nearest = shape, inf
        for steps in product(range(-2, 3), repeat=len(shape.embed)):
            embed = [width + by * self.step("embed", stage)
                     for stage, (width, by) in enumerate(zip(shape.embed, steps, strict=True))]  # fmt: skip
            rule = self.target.rule("embed")
            if min(embed) < (rule.floor or EMBED_FLOOR) or max(embed) > (rule.ceiling or 10**9):
                continue
            off = sum(abs(log(width / self.wanted_embed(stage, multiplier))) for stage, width in enumerate(embed))
            found = self._settled(_Shape(shape.target, shape.places, embed, shape.inner))
            if off < nearest and (1 - TOLERANCE) * limit <= found.cost(kind) <= limit:
                best, nearest = found, off
        return best

    def _allowed(self, shape: _Shape, component: str, place: Any) -> bool:
        if component == "embed":
            rule = self.target.rule("embed")
            return shape.embed[place] >= (rule.floor or EMBED_FLOOR)
        low, _ = self.bounds(component, place, shape.embed[place.stage])
        return shape.inner[component, place] >= low

    def _shortest_first(self, shape: _Shape, multiplier: float) -> list[tuple[tuple[str, Any], int]]:
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

    def _settled(self, shape: _Shape) -> _Shape:
        """With the widths that follow from embed, and floors met."""
        inner = dict(shape.inner)
        for (component, place), width in shape.inner.items():
            rule, embed = self.target.rule(component), shape.embed[place.stage]
            low, high = self.bounds(component, place, embed)
            if rule.ratio is not None or not rule.move:
                inner[component, place] = round(self.wanted(component, place, 1.0, embed))
            elif rule.width is None and width < low:
                inner[component, place] = self._rounded(component, low, low, high)
        return _Shape(shape.target, shape.places, shape.embed, inner)

    def explained(
        self, shape: _Shape, multiplier: float, control: EfficientVitConfig
    ) -> Iterator[tuple[str, NetworkWidth]]:
        """Every width with the number that it follows from."""
        per_block = self.target.per == "block"
        for stage, width in enumerate(shape.embed):
            kept = self.kept.stage[stage]
            wanted = self.wanted_embed(stage, multiplier)
            uniform = multiplier * _growth(self.target, stage)
            how = (f"all components kept {kept:.2f} times the network's mean there: {uniform:.1f} x {kept:.2f} = "
                   f"{wanted:.1f}") if self.target.rule("embed").move else f"does not move: {wanted:.1f}"  # fmt: skip
            yield site_name("embed", None, stage), NetworkWidth(
                width=width, control=control.embed_dim[stage], kept=round(kept, 4),
                reason=f"{how}; {self._embed_bound(stage, width, wanted)}",
            )  # fmt: skip
        for place in self.places:
            block = control.blocks[place.first]
            for component in ("qk", "v", "ffn"):
                yield place.name(component, per_block), NetworkWidth(
                    width=shape.inner[component, place], control=getattr(block, component),
                    kept=round(self.kept.component[component, place], 4),
                    reason=self._reason(component, place, shape, multiplier),
                )  # fmt: skip

    def _embed_bound(self, stage: int, width: int, wanted: float) -> str:
        rule, step = self.target.rule("embed"), self.step("embed", stage)
        if rule.ceiling is not None and wanted > rule.ceiling:
            return f"at its ceiling {rule.ceiling}, as a multiple of {step}"
        if wanted < (rule.floor or EMBED_FLOOR):
            return f"at its floor {rule.floor or EMBED_FLOOR}, as a multiple of {step}"
        return _rounding(width, wanted, step)

    def _reason(self, component: str, place: Place, shape: _Shape, multiplier: float) -> str:
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


def _growth(target: Target, stage: int) -> float:
    """Channels of the uniform network's stage, relative to its first."""
    if target.growth == "like":
        embed = SIZES[target.like]["embed_dim"]
        return embed[stage] / embed[0]
    return float(target.growth) ** stage


# -- the control ----------------------------------------------------------------------------------------------


def uniform_control(target: Target, cost: Cost, kind: str) -> EfficientVitConfig:
    """The uniform network of the same cost: Q = K = V = embed / heads, one FFN ratio near 4, one growth.

    Its channels are multiples of 8 and of the heads; what that leaves is made up by the FFN ratio, the same in all
    stages, as near to 4 as it can be.

    Raises:
        InputError: no such network comes within 1 %.
    """
    goal = cost.macs if kind == "macs" else cost.params
    places = _places(target.model_copy(update={"per": "stage"}))
    heads = _heads(_base(target))
    steps = [lcm(8, count) for count in heads]

    def shape(first: float, ratio: float) -> _Shape:
        embed = [max(step, round(first * _uniform_growth(target, stage) / step) * step)
                 for stage, step in enumerate(steps)]  # fmt: skip
        inner: dict[tuple[str, Place], int] = {}
        for place in places:
            part = embed[place.stage] // heads[place.stage]
            inner |= {("qk", place): part, ("v", place): part,
                      ("ffn", place): max(8, round(ratio * embed[place.stage] / 8) * 8)}  # fmt: skip
        return _Shape(target, places, embed, inner)

    # every set of channels in the neighbourhood, each with the ratio that meets the goal
    best: tuple[float, float, EfficientVitConfig] | None = None
    seen = set()
    for tenth in range(40, 20_000):
        first = tenth / 10
        plain = shape(first, UNIFORM_FFN)
        if plain.embed in seen:
            continue
        seen.add(plain.embed)
        if shape(first, UNIFORM_FFN / 2).cost(kind) > goal:
            break
        if shape(first, 2 * UNIFORM_FFN).cost(kind) < goal:
            continue
        low, high = UNIFORM_FFN / 2, 2.0 * UNIFORM_FFN
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if shape(first, middle).cost(kind) <= goal else (low, middle)
        for ratio in (low, high):
            found = shape(first, ratio)
            off = abs(found.cost(kind) - goal) / goal
            key = (max(off - TOLERANCE / 2, 0.0), abs(ratio - UNIFORM_FFN), found.config())
            best = key if best is None or key[:2] < best[:2] else best
    if best is None or best[0] > TOLERANCE / 2:
        raise InputError(f"{kind}: no uniform network comes within {TOLERANCE:.0%} of {goal:,}; choose another budget")
    return best[2]


def _uniform_growth(target: Target, stage: int) -> float:
    return float(2 if target.growth == "like" else target.growth) ** stage
