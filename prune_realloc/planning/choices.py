"""A network, its recipe's rules, and the widths that they leave to choose from."""

from __future__ import annotations

from math import ceil

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Cost, Widths, total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.structure import site_name, site_place
from prune_realloc.recipe.document import Recipe, Rule

TOLERANCE = 0.01
"""A plan spends at least this close to its budget, and never more."""


class PlanningProblem:
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
            raise InputError(
                f"allocation: damage cannot be compared across sites with scorer {analysis.scorer!r}; "
                "take uniform or per-axis, or the scorer fisher"
            )

    def count(self, cost: Cost) -> int:
        return cost.macs if self.kind == "macs" else cost.params

    def cost(self, widths: Widths) -> int:
        return self.count(total_cost(self.analysis.terms, without_dropped_blocks(widths)))

    def enough(self, limit: int) -> int:
        """The least that a plan spends."""
        return ceil(limit * (1 - TOLERANCE))

    def damage(self, widths: Widths) -> float:
        """Sum over the sites; a block that goes takes the damage of its writers, and none of its other sites."""
        return float(
            sum(self.curves[name][width] for name, width in widths.items() if width or site_place(name)[0] == "block")
        )

    def by_rule(self) -> dict[str, int]:
        """Where there is no budget: the rule's width, or the source's."""
        return {name: self._choices(name, movable=False)[0] for name in self.choices}

    def check_budget(self, limit: int) -> None:
        source, least = self.count(self.source), self.cost({name: w[-1] for name, w in self.choices.items()})
        most = self.cost({name: w[0] for name, w in self.choices.items()})
        if limit >= source == most:
            raise InputError(
                f"{self.kind}: a budget of {limit:,} leaves the source's {source:,} as they are, nothing "
                "would be removed; lower it"
            )
        if least <= limit <= most:
            return
        if limit > most:
            raise InputError(
                f"{self.kind}: the rules leave at most {most:,}, below the budget of {limit:,}; lower the "
                "budget or loosen keep, width and ceiling"
            )
        stuck = [axis for axis in ("embed", "heads", "qk", "v", "ffn") if self._stuck(axis)]
        what = f"{', '.join(stuck)} may not change; " if stuck else ""
        raise InputError(
            f"{self.kind}: {limit:,} ({limit / source:.1%} of the source) is below the least that the rules allow, "
            f"{least:,} ({least / source:.1%}); {what}lower floors, or add to axes"
        )

    def coarsest(self) -> str:
        steps = {
            "whole blocks"
            if axis == "block"
            else f"{axis} {rounding_multiple(self.rules[name], self.analysis.widths[name])}"
            for name in self.choices
            for axis in [site_place(name)[0]]
            if len(self.choices[name]) > 1
        }
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
            return (
                f"kept; {smaller[0]} would give up {self.curves[name][smaller[0]]:.2g} {unit} for {short_count(less)}"
            )
        # a block takes all its sites with it
        before = {
            n: w
            for n, w in self.analysis.widths.items()
            if n == name or (axis == "block" and site_place(n)[1] == block)
        }
        saved = self.cost(dict(widths) | before) - self.cost(widths)
        given = f"gives up {self.curves[name][width]:.2g} {unit}, saves {short_count(saved)} {self.kind}"
        multiple = rounding_multiple(rule, whole)
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
                    raise InputError(
                        f"rules.{axis}: blocks {rule.blocks} are not in this model, which has "
                        f"{min(blocks)}-{max(blocks)}"
                    )

    def _stuck(self, axis: str) -> bool:
        names = [name for name in self.choices if site_place(name)[0] == axis]
        return bool(names) and all(len(self.choices[name]) == 1 for name in names)

    def _choices(self, name: str, movable: bool = True) -> list[int]:
        """Allowed widths, the widest first."""
        axis, _ = site_place(name)
        whole, rule = self.analysis.widths[name], self.rules[name]
        multiple = rounding_multiple(rule, whole)
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
            raise InputError(
                f"rules.{axis}: no multiple of {multiple} lies between {low} and {high} for {name}; "
                "change floor, ceiling or round_to"
            )
        if rule.keep is not None:
            wanted = rule.keep * whole
            return [min(allowed, key=lambda width: abs(width - wanted))]
        return allowed if movable and axis in self.recipe.axes else allowed[:1]


def without_dropped_blocks(widths: Widths) -> dict[str, int]:
    """With width 0 for every site of a block that goes."""
    gone = {site_place(name)[1] for name, width in widths.items() if not width and site_place(name)[0] == "block"}
    return {name: 0 if site_place(name)[1] in gone else width for name, width in widths.items()}


def rounding_multiple(rule: Rule, whole: int) -> int:
    """The rule's, or the largest power of two up to 8 that leaves at least four widths to choose from."""
    if rule.round_to is not None:
        return rule.round_to
    return 1 << min(3, max(0, (whole // 4).bit_length() - 1))


def short_count(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
