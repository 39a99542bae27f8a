"""From damage curves and a budget to widths, each with its reason. No torch here.

Every site has a curve: the damage (nats per image) of keeping only w of its units. Costs are sums of products of
widths, so with the stream's width given, a block's attention and its FFN are independent choices with a cost and a
damage each: a multiple-choice knapsack. Dynamic programming over the cost solves it; multiples, floors and ceilings
only thin out the choices, so they are part of the solution and not of a rounding after it. Putting a price on cost
gives a bound that no plan can beat (the linear relaxation), which is stated beside the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, product
from math import ceil, prod

import numpy as np

from prune_realloc.analysis import Analysis
from prune_realloc.cost import Cost, Widths, total_cost, unit_macs
from prune_realloc.errors import InputError
from prune_realloc.recipe import Plan, Recipe, Rule, SitePlan
from prune_realloc.structure import site_name, site_place

INNER_AXES = ("qk", "v", "ffn")
"""The axes whose units can go without touching any other site."""
TOLERANCE = 0.01
"""A plan spends at least this close to its budget, and never more."""
_GRID = 50_000
"""Steps of cost, as a part of the source's: the resolution of the dynamic program."""
_STREAM_WIDTHS = 3
"""Widths of the stream that are solved exactly, the most promising by their bounds."""


def retention(analysis: Analysis, keep_macs: float, axes: Iterable[str] = INNER_AXES) -> dict[str, float]:
    """Share of each site's units that one threshold on score per multiply-add keeps.

    The units of all sites of `axes` are ranked together; the best are kept until they hold `keep_macs` of the
    multiply-adds of these units. This is the picture of the paper's pruning study, before floors and rounding.

    Args:
        keep_macs: in (0, 1].
    """
    if not 0 < keep_macs <= 1:
        raise InputError(f"keep_macs must be above 0 and at most 1, got {keep_macs}")
    names = [name for name in analysis.scores if site_place(name)[0] in axes]
    # a unit of qk or v is one of a head, its width counts per head: so a unit's cost is shared by the groups
    each = {name: unit_macs(analysis.terms, analysis.widths, name) / analysis.groups[name] for name in names}
    cost = np.concatenate([np.full(len(analysis.scores[name]), each[name]) for name in names])
    worth = np.concatenate([analysis.scores[name] for name in names]) / cost
    owner = np.concatenate([np.full(len(analysis.scores[name]), i) for i, name in enumerate(names)])
    order = np.argsort(-worth, kind="stable")
    kept = order[np.cumsum(cost[order]) <= keep_macs * cost.sum() * (1 + 1e-12)]
    counts = np.bincount(owner[kept], minlength=len(names))
    return {name: float(counts[i] / len(analysis.scores[name])) for i, name in enumerate(names)}


def plan(analysis: Analysis, recipe: Recipe) -> Plan:
    """The widths of every site under the recipe's budget and rules.

    Raises:
        InputError: the budget cannot be met, nothing would be removed, or damage is to be compared across sites
            where it cannot be; the message says what binds.
    """
    house = _House(analysis, recipe)
    if recipe.budget is None:
        widths, bound, limit = house.by_rule(), None, None
    else:
        limit = recipe.budget.limit(house.source.macs, house.source.params)
        house.check_budget(limit)
        if recipe.allocation == "damage":
            widths, bound = _least_damage(house, limit)
        else:
            widths, bound = _in_step(house, limit, recipe.allocation), None
    if widths == dict(analysis.widths):
        raise InputError("the plan removes nothing: every rule and budget leaves each width as it is; lower the budget "
                         "or a rule's keep")  # fmt: skip
    blocks = [width for name, width in widths.items() if site_place(name)[0] == "block"]
    if blocks and not any(blocks):
        raise InputError(f"{house.kind}: at {limit:,} no block would be left; raise the budget, or freeze a block")
    cost = total_cost(analysis.terms, widths)
    achieved = house.count(cost)
    if limit is not None and not house.enough(limit) <= achieved <= limit:
        raise InputError(f"{house.kind}: {limit:,} asked for, {achieved:,} is the nearest below that the multiples "
                         f"allow ({house.coarsest()}); lower a rule's round_to, or add to axes")  # fmt: skip
    comparable = analysis.unit == "nats"
    return Plan(
        kind=house.kind, requested=limit, achieved=achieved, source=house.count(house.source),
        macs=cost.macs, params=cost.params,
        damage=_digits(house.damage(widths)) if comparable else None,
        bound=_digits(bound) if comparable and bound is not None else None,
        sites={name: SitePlan(width=widths[name], of=analysis.widths[name], groups=_groups(analysis, name),
                              reason=house.reason(name, widths)) for name in analysis.widths},
    )  # fmt: skip


def _groups(analysis: Analysis, name: str) -> int | None:
    """Groups of a site whose number of groups no other site tells."""
    axis, block = site_place(name)
    if axis not in INNER_AXES or (axis != "ffn" and site_name("heads", block) in analysis.widths):
        return None
    return analysis.groups[name] if analysis.groups[name] > 1 else None


# -- what may be chosen ---------------------------------------------------------------------------------------


class _House:
    """The network, its rules, and the choices they leave."""

    def __init__(self, analysis: Analysis, recipe: Recipe) -> None:
        self.analysis, self.recipe = analysis, recipe
        self.kind = recipe.budget.kind if recipe.budget is not None else "macs"
        self.source = analysis.cost()
        self.terms = [(term.sites, self.count(Cost(params=term.params, macs=term.macs))) for term in analysis.terms]
        self.rules: dict[str, Rule] = {name: recipe.rule(*site_place(name)) for name in analysis.widths}
        self._check_rules()
        self.choices = {name: self._choices(name) for name in analysis.widths}
        self.curves = analysis.damage
        if recipe.allocation == "damage" and recipe.budget is not None and analysis.unit != "nats":
            raise InputError(f"allocation: damage cannot be compared across sites with scorer {analysis.scorer!r}; "
                             "take uniform or per-axis, or the scorer fisher")  # fmt: skip

    def count(self, cost: Cost) -> int:
        return cost.macs if self.kind == "macs" else cost.params

    def cost(self, widths: Widths) -> int:
        return self.count(total_cost(self.analysis.terms, _settled(widths)))

    def enough(self, limit: int) -> int:
        """The least that a plan spends."""
        return ceil(limit * (1 - TOLERANCE))

    def damage(self, widths: Widths) -> float:
        """Sum over the sites; a block that goes takes the damage of its writers, and none of its other sites."""
        return float(sum(self.curves[name][width] for name, width in widths.items()
                         if width or site_place(name)[0] == "block"))  # fmt: skip

    def by_rule(self) -> dict[str, int]:
        """Where there is no budget: the rule's width, or the source's."""
        return {name: self._choices(name, movable=False)[0] for name in self.choices}

    def check_budget(self, limit: int) -> None:
        source, least = self.count(self.source), self.cost({name: w[-1] for name, w in self.choices.items()})
        most = self.cost({name: w[0] for name, w in self.choices.items()})
        if limit >= source == most:
            raise InputError(f"{self.kind}: a budget of {limit:,} leaves the source's {source:,} as they are, nothing "
                             "would be removed; lower it")  # fmt: skip
        if least <= limit <= most:
            return
        if limit > most:
            raise InputError(f"{self.kind}: the rules leave at most {most:,}, below the budget of {limit:,}; lower the "
                             "budget or loosen keep, width and ceiling")  # fmt: skip
        stuck = [axis for axis in ("embed", "heads", "qk", "v", "ffn") if self._stuck(axis)]
        what = f"{', '.join(stuck)} may not change; " if stuck else ""
        raise InputError(
            f"{self.kind}: {limit:,} ({limit / source:.1%} of the source) is below the least that the rules allow, "
            f"{least:,} ({least / source:.1%}); {what}lower floors, or add to axes"
        )

    def coarsest(self) -> str:
        steps = {"whole blocks" if axis == "block" else
                 f"{axis} {_multiple(self.rules[name], self.analysis.widths[name])}"
                 for name in self.choices for axis in [site_place(name)[0]]
                 if len(self.choices[name]) > 1}  # fmt: skip
        return ", ".join(sorted(steps))

    def components(self) -> list[tuple[str, ...]]:
        """Sites that share a term of the cost, apart from the stream: what is to be chosen together."""
        groups: list[set[str]] = [{name} for name in self.choices if site_place(name)[0] not in ("embed", "block")]
        for term in self.analysis.terms:
            touched = [group for group in groups if group & set(term.sites)]
            if len(touched) > 1:
                groups = [group for group in groups if group not in touched] + [set().union(*touched)]
        names = list(self.choices)
        ordered = [tuple(sorted(group, key=names.index)) for group in groups]
        return sorted(ordered, key=lambda group: names.index(group[0]))

    def reason(self, name: str, widths: Widths) -> str:
        """Why a site has its width."""
        axis, block = site_place(name)
        width, whole, rule = widths[name], self.analysis.widths[name], self.rules[name]
        if axis != "block" and block is not None and not widths[site_name("block", block)]:
            return "its block goes"
        if rule.freeze:
            return "frozen"
        if rule.fixes_width:
            return f"rule: width {rule.width}" if rule.width is not None else f"rule: keep {rule.keep:g}"
        if self.recipe.budget is None or axis not in self.recipe.axes:
            return f"rule: ceiling {rule.ceiling}" if width < whole else "no rule asks for a cut"
        unit = "nats" if self.analysis.unit == "nats" else self.analysis.scorer
        if width == whole:
            smaller = [w for w in self.choices[name] if w < whole]
            if not smaller:
                return "no narrower width is allowed"
            less = self.cost(widths) - self.cost(dict(widths) | {name: smaller[0]})
            return f"kept; {smaller[0]} would give up {self.curves[name][smaller[0]]:.2g} {unit} for {_short(less)}"
        # a block takes all its sites with it
        before = {n: w for n, w in self.analysis.widths.items()
                  if n == name or (axis == "block" and site_place(n)[1] == block)}  # fmt: skip
        saved = self.cost(dict(widths) | before) - self.cost(widths)
        given = f"gives up {self.curves[name][width]:.2g} {unit}, saves {_short(saved)} {self.kind}"
        multiple = _multiple(rule, whole)
        if width == self.choices[name][-1] and axis != "block":
            return f"{given}; at its floor {width}"
        if rule.ceiling is not None and width == self.choices[name][0]:
            return f"{given}; at its ceiling {rule.ceiling}"
        return f"{given}; multiple of {multiple}" if multiple > 1 else given

    def _check_rules(self) -> None:
        blocks = {block for _, block in map(site_place, self.analysis.widths) if block is not None}
        present = {axis for axis, _ in map(site_place, self.analysis.widths)}
        for field, axes in (("axes", self.recipe.axes), ("rules", self.recipe.rules)):
            for axis in axes:
                if axis not in present:
                    raise InputError(f"{field}: this model has no {axis}; it has {', '.join(sorted(present))}")
        for axis in self.recipe.rules:
            for rule in self.recipe.rules_of(axis):
                if rule.blocks is not None and not any(rule.covers(block) for block in blocks):
                    raise InputError(f"rules.{axis}: blocks {rule.blocks} are not in this model, which has "
                                     f"{min(blocks)}-{max(blocks)}")  # fmt: skip

    def _stuck(self, axis: str) -> bool:
        names = [name for name in self.choices if site_place(name)[0] == axis]
        return bool(names) and all(len(self.choices[name]) == 1 for name in names)

    def _choices(self, name: str, movable: bool = True) -> list[int]:
        """Allowed widths, the widest first."""
        axis, _ = site_place(name)
        whole, rule = self.analysis.widths[name], self.rules[name]
        multiple = _multiple(rule, whole)
        if rule.freeze:
            return [whole]
        if rule.width is not None:
            if rule.width > whole:
                raise InputError(f"rules.{axis}.width: {rule.width} is more than the {whole} of {name}; lower it")
            return [rule.width]
        if axis == "block":
            return [1, 0] if movable and axis in self.recipe.axes else [1]
        low, high = min(rule.floor or 1, whole), min(rule.ceiling or whole, whole)
        allowed = [w for w in range(high, low - 1, -1) if w % multiple == 0 or w == whole]
        if not allowed:
            raise InputError(f"rules.{axis}: no multiple of {multiple} lies between {low} and {high} for {name}; "
                             "change floor, ceiling or round_to")  # fmt: skip
        if rule.keep is not None:
            wanted = rule.keep * whole
            return [min(allowed, key=lambda width: abs(width - wanted))]
        return allowed if movable and axis in self.recipe.axes else allowed[:1]


def _settled(widths: Widths) -> dict[str, int]:
    """With width 0 for every site of a block that goes."""
    gone = {site_place(name)[1] for name, width in widths.items() if not width and site_place(name)[0] == "block"}
    return {name: 0 if site_place(name)[1] in gone else width for name, width in widths.items()}


def _multiple(rule: Rule, whole: int) -> int:
    """The rule's, or the largest power of two up to 8 that leaves at least four widths to choose from."""
    if rule.round_to is not None:
        return rule.round_to
    return 1 << min(3, max(0, (whole // 4).bit_length() - 1))


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


# -- least damage ---------------------------------------------------------------------------------------------


class _Part:
    """Sites that are chosen together (the attention of a block, or its FFN), and every way to build them."""

    def __init__(self, house: _House, names: Sequence[str]) -> None:
        self.names = names
        grid = np.meshgrid(*(house.choices[name] for name in names), indexing="ij")
        self.widths = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
        self.damage = sum(np.asarray(house.curves[name])[width] for name, width in self.widths.items())
        self._terms = [
            (
                [n for n in sites if n not in names],
                each * np.prod([self.widths[n] for n in sites if n in names], axis=0),
            )
            for sites, each in house.terms
            if set(sites) & set(names)
        ]

    def cost(self, stream: Widths) -> np.ndarray:
        return sum(prod(stream.get(name, 1) for name in others) * units for others, units in self._terms)


class _Block:
    """Parts that are chosen one by one, or go together."""

    def __init__(self, house: _House, block: int | None, parts: Sequence[_Part]) -> None:
        self.site, self.parts = site_name("block", block), parts
        may_go = len(house.choices.get(self.site, ())) > 1
        self.gone = float(house.curves[self.site][0]) if may_go else np.inf
        self._terms = [
            ([n for n in sites if n != self.site], each) for sites, each in house.terms if self.site in sites
        ]

    def costs(self, stream: Widths) -> list[np.ndarray]:
        """Of each choice of each part; what the block costs whatever its widths is counted with the first part."""
        costs = [part.cost(stream) for part in self.parts]
        costs[0] = costs[0] + sum(each * prod(stream[n] for n in others) for others, each in self._terms)
        return costs


def _blocks(house: _House) -> list[_Block]:
    parts: dict[int | None, list[_Part]] = {}
    for names in house.components():
        parts.setdefault(site_place(names[0])[1], []).append(_Part(house, names))
    return [_Block(house, block, own) for block, own in parts.items()]


def _least_damage(house: _House, limit: int) -> tuple[dict[str, int], float]:
    """Widths of least damage within the budget, and the bound that no plan beats."""
    streams = [name for name in house.choices if site_place(name)[0] == "embed"]
    outside = [(sites, each) for sites, each in house.terms if set(sites) <= set(streams)]
    blocks = _blocks(house)
    relaxed = _relaxation(blocks)
    options = []
    for given in product(*(house.choices[name] for name in streams)):
        stream = dict(zip(streams, given, strict=True))
        own = float(sum(house.curves[name][width] for name, width in stream.items()))
        left = limit - sum(each * prod(stream[name] for name in sites) for sites, each in outside)
        costs = [block.costs(stream) for block in blocks]
        most = sum(int(cost.max()) for parts in costs for cost in parts)
        least = [0 if block.gone < np.inf else sum(int(cost.min()) for cost in parts)
                 for block, parts in zip(blocks, costs, strict=True)]  # fmt: skip
        if sum(least) <= left:
            short = most + limit - left < house.enough(limit)  # even at its widest: the last resort
            options.append((short, own + relaxed(costs, left), given, left))
    options.sort()
    best: tuple[bool, float, dict[str, int]] | None = None
    for _, _, given, left in options[:_STREAM_WIDTHS]:
        stream = dict(zip(streams, given, strict=True))
        costs = [block.costs(stream) for block in blocks]
        chosen = _knapsack(blocks, costs, left, left - limit + house.enough(limit), house.count(house.source))
        if chosen is None:
            continue
        widths = dict.fromkeys(house.choices, 1) | stream | chosen  # a block without a choice stays
        found = house.cost(widths) < house.enough(limit), house.damage(widths), widths
        if best is None or found[:2] < best[:2]:
            best = found
    if best is None:
        raise InputError(f"{house.kind}: {limit:,} lies so close to the least that the rules allow that no plan was "
                         "found; raise the budget, or lower floors")  # fmt: skip
    return best[2], min(best[1], *(bound for _, bound, _, _ in options))


def _relaxation(blocks: Sequence[_Block]) -> Callable[[Sequence[Sequence[np.ndarray]], int], float]:
    """The function (costs, limit) -> least damage at `limit` if choices could be mixed.

    With a price on cost every part has its best choice by itself, and the least of damage + price * (cost - limit) is
    a bound at any price (Lagrange); the best one is where the spending crosses the limit.
    """
    parts = [part for block in blocks for part in block.parts]
    size = max(len(part.damage) for part in parts)
    damages = np.stack([np.pad(part.damage, (0, size - len(part.damage)), constant_values=np.inf) for part in parts])
    highest = 1 + sum(float(part.damage.max()) for part in parts)  # per unit of cost: nothing is worth that
    gone = np.array([block.gone for block in blocks])
    starts = np.cumsum([0, *(len(block.parts) for block in blocks[:-1])])
    rows = np.arange(len(parts))

    def bound(costs: Sequence[Sequence[np.ndarray]], limit: int) -> float:
        padded = np.zeros(damages.shape)
        for row, cost in zip(padded, (cost for own in costs for cost in own), strict=True):
            row[: len(cost)] = cost
        found, low, high = 0.0, 0.0, highest
        for _ in range(64):
            price = (low + high) / 2
            picks = (damages + price * padded).argmin(axis=1)
            cost = np.add.reduceat(padded[rows, picks], starts)
            worth = np.add.reduceat(damages[rows, picks], starts) + price * cost
            found = max(found, float(np.minimum(worth, gone).sum()) - price * limit)
            low, high = (price, high) if cost[worth <= gone].sum() > limit else (low, price)
        return found

    return bound


def _knapsack(
    blocks: Sequence[_Block], costs: Sequence[Sequence[np.ndarray]], limit: int, enough: int, source: int
) -> dict[str, int] | None:
    """Widths of least total damage within `limit`; None if there are none.

    Costs are counted in whole grains of the source's, rounded up, so what is found fits; the grain does not depend on
    the limit, so more budget never finds worse. Only where whole blocks go can the least damage leave more of the
    budget than one multiple; if it spends less than `enough`, it is the least of what spends enough, if anything does.
    """
    least = np.full(limit * _GRID // source + 1, np.inf)  # damage so far, by the grains that are spent
    least[0] = 0.0
    trail = []
    for block, own in zip(blocks, costs, strict=True):
        stays, steps = least, []
        for part, cost in zip(block.parts, own, strict=True):
            numbers, grains = _undominated(part.damage, cost, source)
            steps.append((part, numbers, grains, stays))
            stays = _with_one_of(stays, grains, part.damage[numbers])
        trail.append((block, steps, stays, least))
        least = np.minimum(stays, least + block.gone)
    if not np.isfinite(least).any():
        return None
    # the dearest of equals, because a budget is there to be used
    place = int(np.flatnonzero(least == least.min())[-1])
    safe = max(0, -(-enough * _GRID // source) + sum(len(own) for own in costs))  # enough for certain
    if place < safe and np.isfinite(least[safe:]).any():
        place = safe + int(least[safe:].argmin())
    widths: dict[str, int] = {}
    for block, steps, stays, before in reversed(trail):
        if stays[place] > before[place] + block.gone:
            widths |= dict.fromkeys([block.site, *(name for part in block.parts for name in part.names)], 0)
            continue
        for part, numbers, grains, before in reversed(steps):
            fits = grains <= place
            totals = before[place - grains[fits]] + part.damage[numbers[fits]]
            best = int(totals.argmin())
            widths |= {name: int(width[numbers[best]]) for name, width in part.widths.items()}
            place -= int(grains[best])
    return widths


def _undominated(damage: np.ndarray, cost: np.ndarray, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the choices that nothing cheaper is better than, and their costs in grains, the cheapest first."""
    order = np.lexsort((damage, cost))
    order = order[damage[order] <= np.minimum.accumulate(damage[order])]
    grains = -(-cost[order] * _GRID // source)
    best = np.append(np.diff(grains) > 0, True)  # the last of those that cost the same number of grains
    return order[best], grains[best]


def _with_one_of(before: np.ndarray, grains: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Least damage by the grains that are spent, after one more choice."""
    after = np.full(len(before), np.inf)
    for shift, each in zip(grains.tolist(), damage.tolist(), strict=True):
        if shift < len(before):
            rest = after[shift:]
            np.minimum(rest, before[: len(rest)] + each, out=rest)
    return after


# -- the same everywhere --------------------------------------------------------------------------------------


def _in_step(house: _House, limit: int, allocation: str) -> dict[str, int]:
    """All sites (`uniform`), or all axes (`per-axis`), give up the same share, up to the last steps of one multiple.

    `per-axis` takes from each axis what hurts least there, by its hulls, and compares only inside an axis.
    """
    steps = sorted(_uniform_steps(house) if allocation == "uniform" else _axis_steps(house))
    widths = {name: choices[0] for name, choices in house.choices.items()}

    def after(taken: Iterable[_Step]) -> dict[str, int]:
        result = dict(widths)
        for _, _, name, width in taken:
            result[name] = min(result[name], width)
        return _settled(result)

    low, high = 0, len(steps)
    while low < high:  # the first number of steps that fits
        middle = (low + high) // 2
        low, high = (low, middle) if house.cost(after(steps[:middle])) <= limit else (middle + 1, high)
    taken, result = steps[:low], after(steps[:low])
    for step in reversed(steps[:low]):  # after a coarse last step, the latest finer ones are given back
        if result[step[2]] != step[3] or house.cost(result) >= house.enough(limit):
            continue
        fewer = [other for other in taken if other is not step]
        if house.cost(after(fewer)) <= limit:
            taken, result = fewer, after(fewer)
    return result


_Step = tuple[float, int, str, int]
"""Share given up so far, place in the network, site, its width after the step."""


def _uniform_steps(house: _House) -> Iterator[_Step]:
    for place, (name, choices) in enumerate(house.choices.items()):
        for width in choices[1:]:
            yield 1 - width / house.analysis.widths[name], place, name, width


def _axis_steps(house: _House) -> Iterator[_Step]:
    source = house.count(house.source)
    for axis in house.recipe.axes:
        ranked, total = [], 0
        for place, (name, choices) in enumerate(house.choices.items()):
            if site_place(name)[0] != axis:
                continue
            saved = source - house.cost(dict(house.analysis.widths) | {name: 0})
            each = saved // house.analysis.widths[name]
            total += saved
            hull = _hull([(each * width, float(house.curves[name][width]), width) for width in choices])
            ranked += [(_slope(cheap, dear), place, name, cheap[2], dear[0] - cheap[0])
                       for cheap, dear in pairwise(hull)]  # fmt: skip
        ranked.sort(key=lambda step: (-step[0], step[1], -step[3]))
        done = 0
        for _, place, name, width, less in ranked:
            done += less
            yield done / total, place, name, width


_Choice = tuple[int, float, int]
"""Cost, damage, width."""


def _hull(menu: Iterable[_Choice]) -> list[_Choice]:
    """The lower convex hull of damage over cost, the cheapest first; the dearest is always on it."""
    hull: list[_Choice] = []
    for choice in sorted(menu):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: _Choice, b: _Choice) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
