"""From damage curves and a budget to widths, each with its reason. No torch here.

Every site has a curve: the damage (nats per image) of keeping only w of its units. Costs are sums of products of
widths, so with the stream's width given, a block's attention and its FFN are independent choices with a cost and a
damage each: a multiple-choice knapsack. Dynamic programming over the cost solves it; multiples, floors and ceilings
only thin out the choices, so they are part of the solution and not of a rounding after it. The lower convex hulls of
the choices give a bound that no plan can beat (the linear relaxation), which is stated beside the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

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
_GRID = 20_000
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
    cost = total_cost(analysis.terms, widths)
    achieved = house.count(cost)
    if limit is not None and not limit * (1 - TOLERANCE) <= achieved <= limit:
        raise InputError(f"{house.kind}: {limit:,} asked for, {achieved:,} is the nearest below that the multiples "
                         f"allow ({house.coarsest()}); lower a rule's round_to")  # fmt: skip
    comparable = analysis.unit == "nats"
    return Plan(
        kind=house.kind, requested=limit, achieved=achieved, source=house.count(house.source),
        macs=cost.macs, params=cost.params,
        damage=_digits(house.damage(widths)) if comparable else None,
        bound=_digits(bound) if comparable and bound is not None else None,
        sites={name: SitePlan(width=widths[name], of=analysis.widths[name], reason=house.reason(name, widths))
               for name in analysis.widths},
    )  # fmt: skip


# -- what may be chosen ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """One way to build a component (the attention of a block, its FFN, or the whole block)."""

    widths: tuple[int, ...]
    cost: int
    damage: float


class _House:
    """The network, its rules, and the choices they leave."""

    def __init__(self, analysis: Analysis, recipe: Recipe) -> None:
        self.analysis, self.recipe = analysis, recipe
        self.kind = recipe.budget.kind if recipe.budget is not None else "macs"
        self.source = analysis.cost()
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
        return self.count(total_cost(self.analysis.terms, widths))

    def damage(self, widths: Widths) -> float:
        """Sum over the sites; a block that goes takes the damage of its writers, and none of its other sites."""
        gone = {site_place(name)[1] for name, width in widths.items() if not width}
        return float(sum(self.curves[name][width] for name, width in widths.items()
                         if site_place(name)[0] == "block" or site_place(name)[1] not in gone))  # fmt: skip

    def by_rule(self) -> dict[str, int]:
        """Where there is no budget: the rule's width, or the source's."""
        return {name: self._choices(name, movable=False)[0] for name in self.choices}

    def check_budget(self, limit: int) -> None:
        source, least = self.count(self.source), self.cost({name: w[-1] for name, w in self.choices.items()})
        if limit >= source:
            raise InputError(f"{self.kind}: a budget of {limit:,} leaves the source's {source:,} as they are, nothing "
                             "would be removed; lower it")  # fmt: skip
        most = self.cost({name: w[0] for name, w in self.choices.items()})
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
        steps = {f"{axis} {_multiple(self.rules[name], self.analysis.widths[name])}"
                 for name in self.choices for axis in [site_place(name)[0]]
                 if len(self.choices[name]) > 1 and axis != "block"}  # fmt: skip
        return "round_to " + ", ".join(sorted(steps)) if steps else "no site may change"

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
        saved = self.cost(dict(widths) | {name: whole}) - self.cost(widths)
        unit = "nats" if self.analysis.unit == "nats" else self.analysis.scorer
        if width == whole:
            smaller = [w for w in self.choices[name] if w < whole]
            if not smaller:
                return "no narrower width is allowed"
            less = self.cost(widths) - self.cost(dict(widths) | {name: smaller[0]})
            return f"kept; {smaller[0]} would give up {self.curves[name][smaller[0]]:.2g} {unit} for {_short(less)}"
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
        for axis in (*self.recipe.axes, *self.recipe.rules):
            if axis not in present:
                raise InputError(f"axes: this model has no {axis}; it has {', '.join(sorted(present))}")
        for axis in self.recipe.rules:
            for rule in self.recipe.rules_of(axis):
                if rule.blocks is not None and not any(rule.covers(block) for block in blocks):
                    raise InputError(f"rules.{axis}: blocks {rule.blocks} are not in this model, which has "
                                     f"{min(blocks)}-{max(blocks)}")  # fmt: skip

    def _stuck(self, axis: str) -> bool:
        names = [name for name in self.choices if site_place(name)[0] == axis]
        return all(len(self.choices[name]) == 1 for name in names)

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
        low, high = min(rule.floor or 1, whole), min(rule.ceiling or whole, whole)
        if rule.keep is not None:
            nearest = max(1, round(rule.keep * whole / multiple)) * multiple
            return [min(max(nearest, low), high)]
        if not movable or axis not in self.recipe.axes:
            if rule.ceiling is not None and rule.ceiling < whole:
                return [rule.ceiling // multiple * multiple or rule.ceiling]
            return [whole]
        if axis == "block":
            return [1, 0]
        inside = [w for w in range(high, low - 1, -1) if w % multiple == 0 or w == whole]
        if not inside:
            raise InputError(f"rules.{axis}: no multiple of {multiple} lies between {low} and {high} for {name}; "
                             "change floor, ceiling or round_to")  # fmt: skip
        return inside


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


def _least_damage(house: _House, limit: int) -> tuple[dict[str, int], float]:
    """Widths of least damage within the budget, and the bound that no plan beats."""
    streams = [name for name in house.choices if site_place(name)[0] == "embed"]
    options = []
    for given in product(*(house.choices[name] for name in streams)):
        stream = dict(zip(streams, given, strict=True))
        own = sum(house.curves[name][width] for name, width in stream.items())
        fixed, menus = _menus(house, stream)
        if fixed + sum(min(choice.cost for choice in menu) for _, menu in menus) <= limit:
            options.append((own + _bound([menu for _, menu in menus], limit - fixed), given))
    options.sort()
    best: tuple[float, dict[str, int]] | None = None
    for _, given in options[:_STREAM_WIDTHS]:
        stream = dict(zip(streams, given, strict=True))
        fixed, menus = _menus(house, stream)
        chosen = _knapsack([menu for _, menu in menus], limit - fixed, house.count(house.source) / _GRID)
        if chosen is None:
            continue
        widths = stream | {
            name: width for (names, _), choice in zip(menus, chosen, strict=True)
            for name, width in zip(names, choice.widths, strict=True)
        }  # fmt: skip
        widths = {name: widths.get(name, 1) for name in house.choices}  # a block without a choice stays
        damage = house.damage(widths)
        if best is None or damage < best[0]:
            best = damage, widths
    if best is None:
        raise InputError(f"{house.kind}: {limit:,} lies so close to the least that the rules allow that no plan was "
                         "found; raise the budget, or lower floors")  # fmt: skip
    return best[1], min(bound for bound, _ in options)


def _menus(house: _House, stream: Widths) -> tuple[int, list[tuple[tuple[str, ...], list[_Choice]]]]:
    """Cost of what cannot be chosen, and per component (or whole block) its sites and undominated choices."""
    terms = [(t.sites, t.macs if house.kind == "macs" else t.params) for t in house.analysis.terms]
    blocks = {name for name in house.choices if site_place(name)[0] == "block"}
    by_block: dict[int | None, list[tuple[tuple[str, ...], list[_Choice]]]] = {}
    for names in house.components():
        scaled: dict[tuple[int, ...], int] = {}
        for sites, each in terms:
            inner = tuple(names.index(name) for name in sites if name in names)
            if inner:
                outer = prod(stream.get(n, 1) for n in sites if n not in names)
                scaled[inner] = scaled.get(inner, 0) + each * outer
        menu = [
            _Choice(given, sum(each * prod(given[i] for i in inner) for inner, each in scaled.items()),
                    float(sum(house.curves[n][w] for n, w in zip(names, given, strict=True))))
            for given in product(*(house.choices[name] for name in names))
        ]  # fmt: skip
        by_block.setdefault(site_place(names[0])[1], []).append((names, _undominated(menu)))
    fixed = 0
    menus = []
    for block, parts in by_block.items():
        whole = site_name("block", block)
        constant = sum(each * prod(stream.get(n, 1) for n in sites if n != whole)
                       for sites, each in terms
                       if whole in sites)  # fmt: skip
        if whole in blocks and len(house.choices[whole]) > 1:
            names = (whole, *(name for sites, _ in parts for name in sites))
            joint = [_Choice((1, *(w for choice in picks for w in choice.widths)),
                             constant + sum(choice.cost for choice in picks), sum(choice.damage for choice in picks))
                     for picks in product(*(_hull(menu) for _, menu in parts))]  # fmt: skip
            nothing = _Choice((0,) * len(names), 0, float(house.curves[whole][0]))
            menus.append((names, _undominated([*joint, nothing])))
        else:
            fixed += constant
            menus += parts
    loose = [(sites, each) for sites, each in terms
             if all(site_place(name)[0] == "embed" for name in sites)]  # fmt: skip
    fixed += sum(each * prod(stream[n] for n in sites) for sites, each in loose)
    return fixed, menus


def _undominated(menu: Sequence[_Choice]) -> list[_Choice]:
    """Choices that nothing cheaper (or, at the same damage, dearer: a budget is there to be used) is as good as."""
    kept: list[_Choice] = []
    for choice in sorted(menu, key=lambda c: (c.cost, c.damage)):
        last = kept[-1] if kept else None
        if last is None or choice.damage < last.damage or (choice.damage == last.damage and choice.cost > last.cost):
            kept.append(choice)
    return kept


def _hull(menu: Sequence[_Choice]) -> list[_Choice]:
    """The lower convex hull of damage over cost, the cheapest first."""
    hull: list[_Choice] = []
    for choice in sorted(menu, key=lambda c: (c.cost, c.damage)):
        if hull and choice.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: _Choice, b: _Choice) -> float:
    return (b.damage - a.damage) / (b.cost - a.cost)


def _bound(menus: Iterable[Sequence[_Choice]], limit: int) -> float:
    """Least damage at `limit` if choices could be mixed: the hulls' steepest steps first, the last one in part."""
    damage, steps = 0.0, []
    for menu in menus:
        hull = _hull(menu)
        damage += hull[0].damage
        limit -= hull[0].cost
        steps += [(_slope(a, b), b.cost - a.cost) for a, b in pairwise(hull)]
    for slope, cost in sorted(steps):
        taken = min(cost, max(limit, 0))
        damage += slope * taken
        limit -= taken
    return damage


def _knapsack(menus: Sequence[Sequence[_Choice]], limit: int, grain: float) -> list[_Choice] | None:
    """One choice of each menu, of least total damage within `limit`; None if there is none.

    Costs are counted in whole grains, rounded up, so what is found fits; the grain does not depend on the limit, so
    more budget never finds worse.
    """
    size = int(limit / grain) + 1
    least = np.zeros(size)
    taken = np.empty((len(menus), size), dtype=np.int32)
    for row, menu in enumerate(menus):
        best = np.full(size, np.inf)
        for number, choice in enumerate(menu):
            shift = int(np.ceil(choice.cost / grain))
            if shift < size:
                candidate = least[: size - shift] + choice.damage
                # later choices cost more: at equal damage they win, because a budget is there to be used
                better = candidate <= best[shift:]
                best[shift:][better] = candidate[better]
                taken[row, shift:][better] = number
        least = best
    if not np.isfinite(least[-1]):
        return None
    chosen, place = [], size - 1
    for row in range(len(menus) - 1, -1, -1):
        choice = menus[row][taken[row, place]]
        chosen.append(choice)
        place -= int(np.ceil(choice.cost / grain))
    return chosen[::-1]


# -- the same everywhere --------------------------------------------------------------------------------------


def _in_step(house: _House, limit: int, allocation: str) -> dict[str, int]:
    """All sites (`uniform`), or all axes (`per-axis`), give up the same share; the last step of one multiple decides.

    `per-axis` takes from each axis what hurts least there, by its hulls, and compares only inside an axis.
    """
    steps = sorted(_uniform_steps(house) if allocation == "uniform" else _axis_steps(house))
    widths = {name: choices[0] for name, choices in house.choices.items()}

    def after(count: int) -> dict[str, int]:
        result = dict(widths)
        for _, _, name, width in steps[:count]:
            result[name] = min(result[name], width)
        gone = {site_place(name)[1] for name, width in result.items() if not width}
        return {name: 0 if site_place(name)[1] in gone else width for name, width in result.items()}

    low, high = 0, len(steps)
    while low < high:  # the first number of steps that fits
        middle = (low + high) // 2
        low, high = (low, middle) if house.cost(after(middle)) <= limit else (middle + 1, high)
    return after(low)


_Step = tuple[float, int, str, int]
"""Share given up so far, place in the network, site, its width after the step."""


def _uniform_steps(house: _House) -> Iterator[_Step]:
    for place, (name, choices) in enumerate(house.choices.items()):
        for width in choices[1:]:
            yield 1 - width / house.analysis.widths[name], place, name, width


def _axis_steps(house: _House) -> Iterator[_Step]:
    for axis in house.recipe.axes:
        ranked = []
        for place, (name, choices) in enumerate(house.choices.items()):
            if site_place(name)[0] != axis:
                continue
            widths = dict(house.analysis.widths)
            menu = [_Choice((w,), house.cost(widths | {name: w}), float(house.curves[name][w])) for w in choices]
            hull = _hull(menu)[::-1]
            ranked += [(_slope(b, a), place, name, b.widths[0], a.cost - b.cost)
                       for a, b in pairwise(hull)]  # fmt: skip
        ranked.sort(key=lambda step: (-step[0], step[1], -step[3]))
        total, done = sum(step[4] for step in ranked), 0
        for _, place, name, width, saved in ranked:
            done += saved
            yield done / total, place, name, width
