"""A network, its recipe's rules, and the widths that they leave to choose from."""

from __future__ import annotations

import copy
from functools import cached_property
from math import ceil, lcm

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import DEFAULT_KIND, Widths
from prune_realloc.core.errors import InputError
from prune_realloc.core.prices import Price
from prune_realloc.core.structure import INNER_AXES, OUTER_AXES, site_place
from prune_realloc.planning.measures import Measure, of_kind
from prune_realloc.recipe.document import DEFAULT_AXES, Recipe, RecipeAxis
from prune_realloc.recipe.rules import Rule

TOLERANCE = 0.01
"""A plan spends at least this close to its budget, and never more."""
FLOORS = {"hidden": 8}
"""Axis -> what a site keeps at least, where no rule has a floor, or a ceiling below this: convolutions over fewer
channels are hardly faster."""
_MULTIPLES = {"hidden": 8}
"""Axis -> what its widths are multiples of where no rule says it, however narrow the site."""


class PlanningProblem:
    """The network, its rules, and the choices they leave."""

    def __init__(self, analysis: Analysis, recipe: Recipe) -> None:
        self.analysis, self.recipe = analysis, recipe
        self.axes = movable_axes(analysis, recipe)
        """What may be cut to meet the budget."""
        self.measure = of_kind(analysis, DEFAULT_KIND if recipe.budget is None else recipe.budget.kind)
        """What is counted."""
        self.rules: dict[str, Rule] = {name: recipe.rule(*site_place(name)) for name in analysis.widths}
        self._check_rules()
        self._check_inside()
        self.choices = {name: self._choices(name) for name in analysis.widths}
        self.curves = analysis.damage
        if recipe.allocation == "damage" and recipe.budget is not None and analysis.unit != "nats":
            raise InputError(
                f"allocation: damage cannot be compared across sites with scorer {analysis.scorer!r}; "
                "take uniform or per-axis, or the scorer fisher"
            )

    @property
    def kind(self) -> str:
        """What is counted, as messages call it."""
        return self.measure.kind

    @property
    def prices(self) -> tuple[Price, ...]:
        """What units cost."""
        return self.measure.prices

    @cached_property
    def source(self) -> int:
        """What the source costs."""
        return self.cost(self.analysis.widths)

    def counting(self, measure: Measure) -> PlanningProblem:
        """The same choices at another cost."""
        other = copy.copy(self)
        vars(other).pop("source", None)
        other.measure = measure
        return other

    def cost(self, widths: Widths) -> int:
        """What the network costs at `widths`."""
        return self.measure.cost(widths)

    def enough(self, limit: int) -> int:
        """The least that a plan spends; of time and memory, nobody wants more than what accuracy needs."""
        return ceil(limit * (1 - TOLERANCE)) if self.measure.must_be_spent else 0

    def damage(self, widths: Widths) -> float:
        """Sum over the sites; a block that goes takes the damage of its writers, and none of its other sites."""
        return float(
            sum(self.curves[name][width] for name, width in widths.items() if width or site_place(name)[0] == "block")
        )

    def by_rule(self) -> dict[str, int]:
        """Where there is no budget: the rule's width, or the source's."""
        return {name: self._choices(name, movable=False)[0] for name in self.choices}

    def streams(self) -> list[str]:
        """The sites of the residual streams."""
        return [name for name in self.choices if site_place(name)[0] == "embed"]

    def multiple(self, name: str) -> int:
        """What the width of a site is a multiple of: what its rule says, and what the network needs."""
        rounding = rounding_multiple(self.rules[name], self.analysis.widths[name], site_place(name)[0])
        return lcm(rounding, self.analysis.multiples.get(name, 1))

    def components(self) -> list[tuple[str, ...]]:
        """Sites that share a term of the cost, apart from the streams: what is to be chosen together."""
        groups: list[set[str]] = [{name} for name in self.choices if site_place(name)[0] not in ("embed", "block")]
        for price in self.prices:
            touched = [group for group in groups if group & price.reads]
            if len(touched) > 1:
                groups = [group for group in groups if group not in touched] + [set().union(*touched)]
        names = list(self.choices)
        ordered = [tuple(sorted(group, key=names.index)) for group in groups]
        return sorted(ordered, key=lambda group: names.index(group[0]))

    def _check_rules(self) -> None:
        blocks = {block for _, block in map(site_place, self.analysis.widths) if block is not None}
        present = {axis for axis, _ in map(site_place, self.analysis.widths)}
        for field, axes in (("axes", self.axes), ("rules", self.recipe.rules)):
            if missing := [axis for axis in axes if axis not in present]:
                raise InputError(
                    f"{field}: this model has no {', '.join(missing)}; it has {', '.join(sorted(present))}"
                )
        for axis in self.recipe.rules:
            for rule in self.recipe.rules_of(axis):
                if rule.blocks is not None and not any(rule.covers(block) for block in blocks):
                    has = f"{min(blocks)}-{max(blocks)}" if blocks else "none"
                    raise InputError(f"rules.{axis}: blocks {rule.blocks} are not in this model, which has {has}")

    def _check_inside(self) -> None:
        """Raises InputError where something is to go that the network around this one reads."""
        where = self.analysis.model.get("inside")
        moving = [f"axes: {axis}" for axis in self.axes if axis in OUTER_AXES]
        moving += [
            f"rules.{axis}: {axis}"
            for axis in OUTER_AXES
            if any(rule.fixes_width for rule in self.recipe.rules_of(axis))
        ]
        if where and moving:
            present = {site_place(name)[0] for name in self.analysis.widths}
            inside = ", ".join(axis for axis in (*INNER_AXES, "heads") if axis in present)
            raise InputError(
                f"{moving[0]} cannot be cut in {where}: the network around it reads the residual stream and counts the "
                f"blocks; what lies inside blocks can: {inside}"
            )

    def _choices(self, name: str, movable: bool = True) -> list[int]:
        """Allowed widths, the widest first."""
        axis, _ = site_place(name)
        whole, rule = self.analysis.widths[name], self.rules[name]
        movable = movable and axis in self.axes
        if rule.freeze:
            return [whole]
        if rule.width is not None:
            self._check_width(name, rule.width)
            return [rule.width]
        if axis == "block":
            return [1, 0] if movable else [1]
        multiple = self.multiple(name)
        high = min(rule.ceiling or whole, whole)
        low = min(rule.floor, whole) if rule.floor is not None else min(FLOORS.get(axis, 1), high)
        allowed = [w for w in range(high, low - 1, -1) if w % multiple == 0 or w == whole]
        if not allowed:
            raise InputError(
                f"rules.{axis}: no multiple of {multiple} lies between {low} and {high} for {name}; "
                "change floor, ceiling or round_to"
            )
        if rule.keep is not None:
            wanted = rule.keep * whole
            return [min(allowed, key=lambda width: abs(width - wanted))]
        return allowed if movable else allowed[:1]

    def _check_width(self, name: str, width: int) -> None:
        axis, whole, needed = site_place(name)[0], self.analysis.widths[name], self.analysis.multiples.get(name, 1)
        if width > whole:
            raise InputError(f"rules.{axis}.width: {width} is more than the {whole} of {name}; lower it")
        if width % needed:
            down = width - width % needed
            nearest = " or ".join(str(n) for n in (down, down + needed) if 0 < n <= whole)
            raise InputError(
                f"rules.{axis}.width: {width} is not a multiple of {needed}, as {name} must be; take {nearest}"
            )


def movable_axes(analysis: Analysis, recipe: Recipe) -> tuple[RecipeAxis, ...]:
    """What may be cut to meet the budget: what the recipe names, or of the default axes those that the network has.

    The streams are among them where damage tells what cutting them costs, and nothing around the network reads them:
    the features of one without a classifier are there to be read.
    """
    if "axes" in recipe.model_fields_set:
        return recipe.axes
    present = {site_place(name)[0] for name in analysis.widths}
    by_features = (analysis.data or {}).get("labels") == "random projections"
    read = analysis.model.get("inside") or by_features
    if recipe.allocation != "damage" or analysis.unit != "nats" or read:
        present -= set(OUTER_AXES)
    return tuple(axis for axis in DEFAULT_AXES if axis in present)


def rounding_multiple(rule: Rule, whole: int, axis: str) -> int:
    """The rule's, the axis's, or the largest power of two up to 8 that leaves at least four widths to choose from."""
    if rule.round_to is not None:
        return rule.round_to
    if axis in _MULTIPLES:
        return _MULTIPLES[axis]
    return 1 << min(3, max(0, (whole // 4).bit_length() - 1))
